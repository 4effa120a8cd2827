"""A mask decoder of the project's own, tuned on 10 labelled images: what it gains on unseen ones, and costs elsewhere.

ECSSD and cats outdoors are of another kind than what the nano family was trained on; COCO's unseen images say what is
forgotten. COCO's training part is mixed in. Masks at the decoder's resolution, one click and a box an object, the mask
picked by the decoder's own estimate; images split at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.pools import MODEL, records
from bench.rows import Row
from bench.tables import data_folder

SETS = ("ecssd", "cats")
LABELLED, TEST, MIXED, FORGOTTEN, DRAWS = 10, 30, 24, 24, 2
SECONDS = 60.0
SMALLEST = 0.0003


def run() -> list[Row]:
    """Mean IoU gained on unseen images of the project, and on COCO, after the gate (no decoder: 0)."""
    from usam.predictor.load import load

    data = data_folder()
    if data is None:
        return []
    predictor = load(MODEL, heads=None)
    coco = list(_encoded(predictor, data, "coco", None))
    mixed = [image for part, image in coco if part == "train"][:MIXED]
    other = [image for part, image in coco if part != "train"][:FORGOTTEN]
    return [row for name in SETS for row in _tuned(predictor, data, name, mixed, other)]


def _encoded(predictor: Any, data: Path, name: str, most: int | None) -> Iterator[tuple[str, Any]]:
    """Part of `nano_split` and the image ready for tuning."""
    from usam.research.nano.stored_images import nano_split
    from usam.training.decoder_tuning import TuningImage, shrink_mask

    chosen = sorted(records(name, data), key=lambda record: str(hash_of(record.group)))
    counts = {"train": 0, "other": 0}
    for record in chosen[:most]:
        part = nano_split(record.group)
        kind = "train" if part == "train" else "other"
        if most is None and counts[kind] >= max(MIXED, FORGOTTEN):
            continue
        masks = [mask for each in record.instances if (mask := each.read_mask()).mean() >= SMALLEST]
        if not masks:
            continue
        counts[kind] += 1
        predictor.set_image(record.read_image())
        side = 4 * predictor.model.sam_image_embedding_size
        small = np.stack([shrink_mask(mask, side) for mask in masks])
        yield part, TuningImage(predictor.embedding(), small[small.max((1, 2)) > 0], record.group)


def hash_of(group: str) -> str:
    """An order that has nothing to do with names."""
    import hashlib

    return hashlib.sha256(f"decoder/{group}".encode()).hexdigest()


def _tuned(predictor: Any, data: Path, name: str, mixed: list[Any], other: list[Any]) -> list[Row]:
    from usam.statistics import bootstrap_mean
    from usam.training.decoder_tuning import TuningSettings, decoder_in_place, object_ious, tune_decoder

    images = [image for _, image in _encoded(predictor, data, name, LABELLED + TEST + 10)]
    model = predictor.model
    gains: list[float] = []
    lost: list[float] = []
    groups: list[str] = []
    told = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(images))
        labelled, test = [images[i] for i in order[:LABELLED]], [images[i] for i in order[LABELLED : LABELLED + TEST]]
        settings = TuningSettings(seconds=SECONDS, seed=draw)
        before = [object_ious(model, part) for part in (test, other)]
        decoder = tune_decoder(model, labelled, mixed, settings, checkpoint=MODEL)
        with decoder_in_place(model, decoder):
            after = [object_ious(model, part) for part in (test, other)]
        gains += (after[0] - before[0]).tolist()
        lost += (after[1] - before[1]).tolist()
        groups += [image.group for image in test]
        told.append(
            "old one kept" if decoder is None else f"{decoder.figures['steps']:.0f} steps at {decoder.figures['blend']}"
        )
    gained = bootstrap_mean(np.array(gains), np.array(groups))
    elsewhere = bootstrap_mean(np.array(lost), np.array([image.group for image in other] * DRAWS))
    what = f"own decoder after {LABELLED} images of {name}, {MODEL}"
    note = f"{TEST} unseen images, {DRAWS} draws ({'; '.join(told)}), budget {SECONDS:.0f} s on a busy machine"
    return [
        Row(f"{what}: change of IoU", gained.value, "mean IoU", "the checkpoint's decoder", ">= 0.03",
            note=f"95 % [{gained.low:+.3f}, {gained.high:+.3f}]; {note}"),
        Row(f"{what}: change of IoU on COCO", elsewhere.value, "mean IoU", "the checkpoint's decoder", ">= -0.005",
            note=f"95 % [{elsewhere.low:+.3f}, {elsewhere.high:+.3f}]; {len(other)} unseen images"),
    ]  # fmt: skip
