"""Labelled images with each label as it is, moved, and half cut off, as a sync would learn from it; made once.

Legend: K candidates and T true objects of an image; V = 3 versions of a label, in the order of `VERSIONS`; F, S numbers
of an object's features and shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import MODEL, _shuffled, kept_once, records
from bench.project_learning import EIGHT
from bench.tables import data_folder

VERSIONS = ("as it is", "shifted", "half cut off")
LEAST_AREA = 0.002
"""Share of the image below which objects of COCO are left aside: nobody marks them in this project."""
MOST_IMAGES = {"coco": 340, "nuclei": 10, "animals7": 120}
SHIFT = 0.25
"""Of its box's width and height, to one side and up or down."""
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class SpoiltImage:
    """`features` (K, F) and `shapes` (K, S) of candidates; `categories` (T,), `areas` (T,) as shares of the image; of
    versions of labels `label_features` (V, T, F), `label_shapes` (V, T, S), `overlap` (V, K, T) IoU with candidates,
    `agreement` and `predicted` (V, T): the best IoU of the model's answers to prompts from the label, and what the
    checkpoint's heads predict of them; `outlines` (V, T, C, F) and `moves` (V, T, 2) of `usam.objects.outlines`, the
    latter as shares of the box, NaN of objects that are not judged."""

    name: str
    part: str
    features: Floats
    shapes: Floats
    categories: list[str]
    areas: Floats
    label_features: Floats
    label_shapes: Floats
    overlap: Floats
    agreement: Floats
    predicted: Floats
    outlines: Floats
    moves: Floats


def is_judged(dataset: str, category: str, area: float) -> bool:
    """Whether a project on this set would mark an object, of a share `area` of its image."""
    return dataset != "coco" or (category in EIGHT and area >= LEAST_AREA)


def spoilt_images(dataset: str) -> list[SpoiltImage]:
    """The images of a set, from the folder USAM_BENCH_POOLS or made and put there. COCO: those that the nano family has
    not seen."""
    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED does not lead to the labelled sets")
    images: list[SpoiltImage] = kept_once(f"spoiled-outlines-{dataset}-{MODEL}", lambda: _made(dataset, data))
    return images


def _made(dataset: str, data: Path) -> Iterator[SpoiltImage]:
    from backend.inference.model import LoadedModel
    from backend.metrics.service import Metrics
    from backend.settings import Settings
    from usam.heads.bundled import resolve_heads
    from usam.research.nano.stored_images import nano_split

    settings = Settings(model=MODEL, threads=1, data_dir=Path("unused"))
    model = LoadedModel.load(MODEL, settings, Metrics(), resolve_heads(MODEL, "auto"))
    chosen = sorted(records(dataset, data), key=lambda record: _shuffled(record.group))[: MOST_IMAGES[dataset]]
    for record in chosen:
        part = nano_split(record.group)
        truths = [(each.category, mask) for each in record.instances if (mask := each.read_mask()).sum() > 16]
        if truths and (part != "train" or dataset == "nuclei"):
            judged = [is_judged(dataset, category, float(mask.mean())) for category, mask in truths]
            yield _one(model, settings, record, part, truths, judged)


def _one(
    model: Any,
    settings: Any,
    record: Any,
    part: str,
    truths: list[tuple[str, npt.NDArray[np.bool_]]],
    judged: list[bool],
) -> Any:
    from backend.inference.candidates import propose
    from backend.inference.scheduler import finish
    from backend.learning.examples import INSIDE, MarkedObject, _squeezed, overlaps_of
    from backend.learning.samples import measured, overlaps, paper_prompts
    from usam.objects.outlines import COPIES, OUTLINE_NAMES
    from usam.training.targets import best_iou, head_name

    rng = np.random.default_rng(len(record.group) + len(truths))
    image = record.read_image()
    embedding = model.encode(image)
    found = finish(propose(model, embedding, (), None, "predicted-iou", settings))
    masks = found.objects.logits > 0
    told = ("features", "shapes", "overlap", "agreement", "predicted", "outlines", "moves")
    parts: dict[str, list[Any]] = {name: [] for name in told}
    for version in VERSIONS:
        drawn = [_spoilt(mask, version, rng) for _, mask in truths]
        small = np.stack([_squeezed(mask, masks.shape[-1]) for mask in drawn])
        looks = model.looks(embedding, np.where(small, INSIDE, -INSIDE).astype(np.float32), np.ones(len(small)))
        regions = [MarkedObject(str(k), "", mask, False) for k, mask in enumerate(drawn)]
        prompts = [paper_prompts(mask, f"{record.group}/{k}") for k, mask in enumerate(drawn)]
        outputs = model.outputs(embedding, [prompt for pair in prompts for prompt in pair])
        scores = model.own_heads.score(outputs.iou_token, outputs.mask_tokens)[head_name(MODEL)]
        best = [
            best_iou(overlaps(outputs.logits[2 * k : 2 * k + 2], mask, False)).max() for k, mask in enumerate(drawn)
        ]
        parts["features"].append(looks.features)
        parts["shapes"].append(looks.shapes)
        parts["overlap"].append(overlaps_of(masks, regions))
        parts["agreement"].append(best)
        parts["predicted"].append(scores[::2].max(1))
        figures = np.full((len(drawn), len(COPIES), len(OUTLINE_NAMES)), np.nan, np.float32)
        moves = np.full((len(drawn), 2), np.nan)
        mine = np.flatnonzero(judged)
        figures[mine], moves[mine] = measured(lambda: image, (found.looks, masks), [regions[k] for k in mine])
        moves /= [_sides(mask) for mask in drawn]
        parts["outlines"].append(figures)
        parts["moves"].append(moves)
    stacked = {name: np.array(values) for name, values in parts.items()}
    return SpoiltImage(
        name=record.group,
        part=part,
        features=found.looks.features,
        shapes=found.looks.shapes,
        categories=[category for category, _ in truths],
        areas=np.array([mask.mean() for _, mask in truths]),
        label_features=stacked["features"],
        label_shapes=stacked["shapes"],
        overlap=stacked["overlap"],
        agreement=stacked["agreement"],
        predicted=stacked["predicted"],
        outlines=stacked["outlines"],
        moves=stacked["moves"],
    )


def _sides(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Width and height of the box around a mask (H, W)."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[-1] + 1 - xs[0]), int(ys[-1] + 1 - ys[0])


def _spoilt(mask: npt.NDArray[np.bool_], version: str, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A mask (H, W) with what people get wrong; never empty."""
    if version == "as it is":
        return mask
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width, height = _sides(mask)
    changed = np.zeros_like(mask)
    if version == "shifted":
        dy, dx = (
            int(sign * max(round(SHIFT * side), 1))
            for sign, side in zip(rng.choice([-1, 1], 2), (height, width), strict=True)
        )
        rows, columns = np.nonzero(mask)
        rows, columns = rows + dy, columns + dx
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        changed[rows[inside], columns[inside]] = True
    else:
        changed = mask.copy()
        halves = (
            (slice(ys[0], ys[0] + (height + 1) // 2), slice(None)),
            (slice(ys[0] + height // 2, None), slice(None)),
            (slice(None), slice(xs[0], xs[0] + (width + 1) // 2)),
            (slice(None), slice(xs[0] + width // 2, None)),
        )
        changed[halves[rng.integers(4)]] = False
    return changed if changed.any() else mask
