"""A mask decoder of the project's own: what it gains on images that nobody labelled, once the gate has judged it.

ECSSD (one salient object a picture) and BSDS500 (every region) are of another kind than what the nano family was
trained on; of COCO, which it knows, the images to label are of the part that it was trained on and all others are not.
Images are split at random; 20 more, without their labels, are what is mixed in. Masks at the decoder's resolution, one
click and one box an object of 0.0003 of the image or more, the mask picked by the decoder's own estimate. Where the
gate keeps the checkpoint's decoder the change is 0. Steps are what bounds the tuning here, and not seconds.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.pools import MODEL, records
from bench.rows import Row
from bench.tables import data_folder

RUNS = (("ecssd", 10, 4), ("bsds500", 10, 2), ("coco", 10, 3), ("ecssd", 50, 1), ("bsds500", 50, 2), ("coco", 50, 2))
"""Set, labelled images, draws."""
MOST, TEST, MIXED = 100, 40, 20
SMALLEST = 0.0003


def run() -> list[Row]:
    """Mean IoU gained on unseen images after the gate, for each set and number of labels."""
    wanted = os.environ.get("USAM_BENCH_DECODER", "").split()  # such as "ecssd/10 coco/40"; all where it is not set
    chosen = [one for one in RUNS if not wanted or f"{one[0]}/{one[1]}" in wanted]
    return [_gained(*one) for one in chosen if data_folder() is not None]


def encoded(name: str) -> list[tuple[str, Any]]:
    """Part of `nano_split` and image ready for tuning, of a set's first images in an order that has nothing to do with
    names; kept in the folder USAM_BENCH_POOLS, or a temporary one."""
    folder = Path(os.environ.get("USAM_BENCH_POOLS") or Path(tempfile.gettempdir()) / "usam-bench-pools")
    kept = folder / f"decoder-{name}-{MODEL}-{MOST}.pickle"
    if not kept.exists():
        from usam.files import replacing
        from usam.predictor.load import load
        from usam.research.nano.stored_images import nano_split
        from usam.training.decoder_tuning import TuningImage, shrink_mask

        predictor, made, data = load(MODEL, heads=None), [], data_folder()
        side = 4 * predictor.model.sam_image_embedding_size
        assert data is not None
        shuffled = sorted(records(name, data), key=lambda one: hashlib.sha256(f"d/{one.group}".encode()).hexdigest())
        for record in shuffled[:MOST]:
            masks = [mask for each in record.instances if (mask := each.read_mask()).mean() >= SMALLEST]
            if masks:
                predictor.set_image(record.read_image())
                small = np.stack([shrink_mask(mask, side) for mask in masks])
                image = TuningImage(predictor.embedding(), small[small.max((1, 2)) > 0], record.group)
                made.append((nano_split(record.group), image))
        with replacing(kept) as partial:
            partial.write_bytes(pickle.dumps(made))
    images: list[tuple[str, Any]] = pickle.loads(kept.read_bytes())  # noqa: S301  (this program wrote it)
    return images


def _drawn(name: str, labelled: int, draw: int) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Images to label, to mix in and to take figures on."""
    images = encoded(name)
    order = np.random.default_rng(draw).permutation(len(images))
    mine = [images[k][1] for k in order if name != "coco" or images[k][0] == "train"]
    unseen = [images[k][1] for k in order if images[k][0] != "train"] if name == "coco" else mine[labelled:]
    test = unseen[-TEST:]
    names = {one.group for one in test}
    return mine[:labelled], [one for one in mine[labelled:] if one.group not in names][:MIXED], test


def _gained(name: str, labelled: int, draws: int) -> Row:
    import torch

    from usam.predictor.load import load
    from usam.predictor.own_decoder import with_decoder
    from usam.statistics import bootstrap_mean
    from usam.training.decoder_tuning import TuningSettings, distil_image, object_ious, tune_decoder

    torch.set_num_threads(1)
    predictor = load(MODEL, heads=None)
    model = predictor.model
    settings = TuningSettings(seconds=1e9)
    before, gains, groups, taken, told = [], [], [], 0, []
    for draw in range(draws):
        own, pool, test = _drawn(name, labelled, draw)
        mixed = [distil_image(model, one.embedding, one.group) for one in pool]
        decoder, verdict = tune_decoder(model, own, (), mixed, replace(settings, seed=draw), checkpoint=MODEL)
        plain = object_ious(model, test)
        after = object_ious(with_decoder(predictor, decoder).model, test) if decoder is not None else plain
        taken += decoder is not None
        told.append(f"{verdict.after - verdict.before:+.3f} left out, {(after - plain).mean():+.3f} unseen")
        before += plain.tolist()
        gains += (after - plain).tolist()
        groups += [one.group for one in test]
    gained = bootstrap_mean(np.array(gains), np.array(groups))
    target = ">= -0.005" if name == "coco" else ">= 0.03" if labelled == 10 else ">= 0.05"
    note = (
        f"95 % [{gained.low:+.3f}, {gained.high:+.3f}] over {len(set(groups))} unseen images, {draws} draws, "
        f"{taken} taken by the gate ({'; '.join(told)}); {settings.steps} steps"
    )
    figure = f"own decoder after {labelled} images of {name}, {MODEL}: change of IoU of picked masks"
    against = f"the checkpoint's decoder: {np.mean(before):.3f}"
    return Row(figure, gained.value, "mean IoU", against, target, note=note)
