"""Labelled images with each label as it is, moved, and half cut off, as a sync would learn from it; made once.

Legend: K candidates and T true objects of an image; V = 3 versions of a label, in the order of `VERSIONS`; F, S numbers
of an object's features and shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import MODEL, SIDE, PoolImage, _model, _shuffled, kept_once, pool_images, records, seen_by
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
    `outlines` (V, T, C, F) and `hints` (V, T, H) of `usam.objects.outlines`, moves
    as shares of the box, NaN of objects that are not judged."""

    name: str
    part: str
    features: Floats
    shapes: Floats
    categories: list[str]
    areas: Floats
    label_features: Floats
    label_shapes: Floats
    overlap: Floats
    outlines: Floats
    hints: Floats


def is_judged(dataset: str, category: str, area: float) -> bool:
    """Whether a project on this set would mark an object, of a share `area` of its image."""
    return dataset != "coco" or (category in EIGHT and area >= LEAST_AREA)


def spoilt_images(dataset: str) -> list[SpoiltImage]:
    """The images of a set, from the folder USAM_BENCH_POOLS or made and put there. COCO: those that the nano family has
    not seen."""
    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED does not lead to the labelled sets")
    images: list[SpoiltImage] = kept_once(f"spoiled-growth-{dataset}-{MODEL}", lambda: _made(dataset, data))
    return images


def _made(dataset: str, data: Path) -> Iterator[SpoiltImage]:
    from usam.research.nano.stored_images import nano_split

    chosen = sorted(records(dataset, data), key=lambda record: _shuffled(record.group))[: MOST_IMAGES[dataset]]
    wanted = {record.group: record for record in chosen if dataset == "nuclei" or nano_split(record.group) != "train"}
    # other topics look at all of COCO and of the nuclei as well, of the animals at none
    whole = dataset in ("coco", "nuclei")
    seen = pool_images(dataset) if whole else seen_by(dataset, list(wanted), SIDE, 1)
    found = {image.name: image for image in seen}
    for group, record in wanted.items():
        truths = [(each.category, mask) for each in record.instances if (mask := each.read_mask()).sum() > 16]
        if truths and group in found:
            yield _one(dataset, found[group], record.read_image(), truths)


def _one(
    dataset: str,
    seen: PoolImage,
    image: npt.NDArray[np.uint8],
    truths: Sequence[tuple[str, npt.NDArray[np.bool_]]],
) -> SpoiltImage:
    from backend.inference.model import ObjectLooks
    from backend.learning.examples import INSIDE, MarkedObject, _squeezed, overlaps_of
    from backend.learning.samples import masks_at, measured
    from usam.objects.outline_copies import COPIES
    from usam.objects.outlines import HINT_NAMES, OUTLINE_NAMES
    from usam.predictor.looks_trunk import looks_trunk
    from usam.predictor.object_features import describe_shapes, pool_stages

    rng = np.random.default_rng(len(seen.name) + len(truths))
    model, _ = _model()
    asked = partial(masks_at, model, model.encode(image))
    stages, rows = looks_trunk("cpu").of_image(image), seen.candidates
    looks, masks = ObjectLooks(seen.features[rows], seen.shapes[rows], ""), seen.masks[rows]
    judged = np.flatnonzero([is_judged(dataset, category, float(mask.mean())) for category, mask in truths])
    told = ("features", "shapes", "overlap", "outlines", "hints")
    parts: dict[str, list[Any]] = {name: [] for name in told}
    for version in VERSIONS:
        drawn = [_spoilt(mask, version, rng) for _, mask in truths]
        small = np.stack([_squeezed(mask, seen.side) for mask in drawn])
        regions = [MarkedObject(str(k), "", mask, False) for k, mask in enumerate(drawn)]
        parts["features"].append(pool_stages(stages, small))
        logits = np.where(small, INSIDE, -INSIDE).astype(np.float32)
        parts["shapes"].append(describe_shapes(logits, np.ones(len(small), np.float32)))
        parts["overlap"].append(overlaps_of(masks, regions))
        figures = np.full((len(drawn), len(COPIES), len(OUTLINE_NAMES)), np.nan, np.float32)
        hints = np.full((len(drawn), len(HINT_NAMES)), np.nan)
        figures[judged], hints[judged] = measured(lambda: image, (looks, masks), asked, [regions[k] for k in judged])
        hints[:, :2] /= [_sides(mask) for mask in drawn]
        parts["outlines"].append(figures)
        parts["hints"].append(hints)
    stacked = {name: np.array(values) for name, values in parts.items()}
    return SpoiltImage(
        name=seen.name,
        part=seen.part,
        features=looks.features,
        shapes=looks.shapes,
        categories=[category for category, _ in truths],
        areas=np.array([mask.mean() for _, mask in truths]),
        label_features=stacked["features"],
        label_shapes=stacked["shapes"],
        overlap=stacked["overlap"],
        outlines=stacked["outlines"],
        hints=stacked["hints"],
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
