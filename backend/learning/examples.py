"""From an annotated image to examples of what a project wants: the objects that people marked, and those that the model
proposed there and nobody marked.

A task is *finished* when somebody submitted it, marked or empty: then a proposal that no region overlaps is unwanted.
Skipped tasks, drafts and what a machine accepted teach nothing. Where a project marks only a part, what is unmarked
teaches nothing either.

Legend: N examples of one annotation; K candidates of its image; F, S numbers of an object's features and shape; L side
of the low-resolution masks.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import StoreError, reason_of
from backend.inference.model import ObjectLooks
from backend.label_studio.records import Annotation
from backend.store.records import ExampleRow
from usam.checkpoints.registry import weights_of

if TYPE_CHECKING:
    from usam.objects.project_heads import Examples, ProjectHeads

_log = logging.getLogger(__name__)
BoolMask = npt.NDArray[np.bool_]
LooksOf = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], ObjectLooks]
OutlinesOf = Callable[[Sequence["MarkedObject"]], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""Figures of regions' outlines (T, C, F) and hints of what is wrong with them (T, H); NaN where not known."""
_ARRAYS = ("features", "shapes", "overlap", "proposed")
INSIDE = 8.0
"""Logit of a cell that a person's region covers."""


@dataclass(frozen=True, eq=False)
class MarkedObject:
    """A person's region: its label (empty for none), its mask (H, W), and whether it only says where the object is.

    Of a large image the mask is drawn each time it is asked for: hundreds of them would fill the memory.
    """

    name: str
    label: str
    drawn: BoolMask | Callable[[], BoolMask] = field(repr=False)
    box_only: bool

    @property
    def mask(self) -> BoolMask:
        """Its pixels."""
        return self.drawn() if callable(self.drawn) else self.drawn


def make_examples(
    annotation: Annotation,
    regions: Sequence[MarkedObject],
    proposed: tuple[ObjectLooks, npt.NDArray[np.bool_]],
    looks_of: LooksOf | None,
    outlines_of: OutlinesOf | None = None,
    *,
    marked_in_part: bool = False,
) -> ExampleRow | None:
    """The examples of one annotation; None where the model's trunk tells no features.

    `proposed`: looks and low-resolution masks (K, L, L) of the candidates of the same image; `looks_of` tells the looks
    of low-resolution logits with their SamScores, needed only where something is marked.
    """
    looks, masks = proposed
    if not looks.version:
        return None
    side = masks.shape[-1]
    small = _all_squeezed(regions, side)
    own = ObjectLooks(looks.features[:0], looks.shapes[:0], looks.version)
    if looks_of is not None and len(small):
        own = looks_of(np.where(small, INSIDE, -INSIDE).astype(np.float32), np.ones(len(small), np.float32))
    overlap = _overlaps_of(masks, regions, small)
    best = overlap.max(1, initial=0.0)
    nearest = overlap.argmax(1) if len(regions) else np.zeros(len(masks), np.int64)
    told = np.where(best > 0, best, np.nan) if marked_in_part else best
    names = [one.name for one in regions]
    about = {
        "labels": [regions[k].label if iou >= 0.5 else "" for k, iou in zip(nearest, best, strict=True)]
        + [one.label for one in regions],
        "regions": [names[k] if len(names) else "" for k in nearest] + names,
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "features": np.concatenate([looks.features, own.features]),
        "shapes": np.concatenate([looks.shapes, own.shapes]),
        "overlap": np.concatenate([told, np.ones(len(regions))]).astype(np.float32),
        "proposed": np.r_[np.ones(len(masks), np.uint8), np.zeros(len(regions), np.uint8)],
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
    }
    if outlines_of is not None and regions:
        arrays["outlines"], arrays["hints"] = outlines_of(regions)
    from safetensors.numpy import save

    packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return ExampleRow(annotation.id, annotation.task, annotation.updated_at, looks.version, packed)


def join_examples(rows: Sequence[ExampleRow]) -> Examples:
    """The examples of several annotations, of one version of features. An image that two people answered counts once
    as an image, and what is damaged is left out. Raises `StoreError` where nothing is left."""
    from usam.objects.project_heads import Examples

    kept = _readable(rows)
    joined = {name: np.concatenate([told.arrays[name] for _, told in kept]) for name in _ARRAYS}
    return Examples(
        joined["features"],
        joined["shapes"],
        [row.task for row, told in kept for _ in told.labels],
        [f"{row.annotation}/{name}" for row, told in kept for name in told.regions],
        [(label,) if label else () for _, told in kept for label in told.labels],
        joined["overlap"],
        joined["proposed"] > 0,
    )


def join_outlines(rows: Sequence[ExampleRow]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of the regions that `join_examples` tells of, in its order: figures of their outlines (T, C, F) and hints of
    what is wrong with them (T, H); NaN where they were not measured as they are now."""
    from usam.objects.outline_copies import COPIES
    from usam.objects.outlines import HINT_NAMES, OUTLINE_NAMES

    figures, hints = [], []
    for _, told in _readable(rows):
        count = int((told.arrays["proposed"] == 0).sum())
        wanted = (count, len(COPIES), len(OUTLINE_NAMES)), (count, len(HINT_NAMES))
        measured = told.outlines is not None and tuple(array.shape for array in told.outlines) == wanted
        found = (
            told.outlines if measured and told.outlines is not None else [np.full(shape, np.nan) for shape in wanted]
        )
        figures.append(found[0].astype(np.float32))
        hints.append(found[1].astype(np.float32))
    return np.concatenate(figures), np.concatenate(hints)


def _readable(rows: Sequence[ExampleRow]) -> list[tuple[ExampleRow, _Unpacked]]:
    found = [(row, told) for row in rows if (told := _unpacked(row)) is not None]
    widths = Counter(told.width for _, told in found)
    kept = [(row, told) for row, told in found if told.width == widths.most_common(1)[0][0]]
    if not kept:
        got = f"none of those of {len(rows)} annotations"
        raise StoreError("examples that can be read", got, "save these annotations again in Label Studio")
    return kept


@dataclass(frozen=True, eq=False)
class _Unpacked:
    """The examples of one annotation; `outlines` are the figures and hints of its regions, None if not measured."""

    arrays: dict[str, npt.NDArray[Any]]
    labels: list[str]
    regions: list[str]
    outlines: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None

    @property
    def width(self) -> tuple[int, int]:
        """F and S."""
        return self.arrays["features"].shape[1], self.arrays["shapes"].shape[1]


def _unpacked(row: ExampleRow) -> _Unpacked | None:
    """None where they are damaged, or not all finite: they would spoil what is learnt from all others."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(row.arrays)
        about = json.loads(arrays["about"].tobytes())
        outlines = (arrays["outlines"], arrays["hints"]) if {"outlines", "hints"} <= arrays.keys() else None
        parts = {name: arrays[name] for name in _ARRAYS}
        told = _Unpacked(parts, list(about["labels"]), list(about["regions"]), outlines)
        if len({len(told.labels), len(told.regions), *map(len, told.arrays.values())}) != 1:
            raise ValueError("parts of different lengths")
        if [array.ndim for array in told.arrays.values()] != [2, 2, 1, 1]:
            raise ValueError("parts of other shapes")
        if not all(np.isfinite(told.arrays[name]).all() for name in ("features", "shapes")):
            raise ValueError("features that are not finite")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        _log.warning("the examples of annotation %s are left out: %s", row.annotation, reason_of(error))
        return None
    return told


def learn_project(
    rows: Sequence[ExampleRow], classes: Sequence[str], checkpoint: str, seed: int
) -> ProjectHeads | None:
    """What the newest version of features of these examples teaches; None where there is nothing to teach it.

    Raises `TrainingError` where it fails.
    """
    from usam.objects.project_heads import fit_project

    versions = [row.features_version for row in rows if f"/{weights_of(checkpoint)}/" in row.features_version]
    if not versions or not classes:
        return None
    version = versions[-1]
    examples = join_examples([row for row in rows if row.features_version == version])
    if not len(examples.overlap):
        return None
    heads = fit_project(examples, classes, features_version=version, checkpoint=checkpoint, seed=seed % 2**31)
    return heads if heads.classifier is not None or heads.selector is not None else None


def known_figures(learnt: ProjectHeads) -> dict[str, float]:
    """What was measured of it on images left out, for records."""
    return {name: round(value, 4) for name, value in learnt.figures.items() if value == value}


def learnt_line(learnt: ProjectHeads) -> str:
    """One line for people."""
    figures, lines = known_figures(learnt), []
    if learnt.selector is not None:
        lines.append(
            f"what is wanted: {figures.get('wanted_precision', 0):.0%} of what would be shown, "
            f"{figures.get('wanted_recall', 0):.0%} of the wanted"
        )
    if learnt.classifier is not None and "class_accuracy" in figures and len(learnt.classes) > 1:
        lines.append(f"labels right: {figures['class_accuracy']:.0%}")
    line = ", ".join(lines) + " (images left out)" if lines else ""
    if learnt.grid is not None and learnt.grid.tiles > 1:
        more = figures["grid_work_before"] / max(figures["grid_work"], 1e-9) - 1
        parts = f"looked at in {learnt.grid.tiles} x {learnt.grid.tiles} parts: {more:.0%} more work without"
        line = f"{line}; {parts}" if line else parts
    return line


def overlaps_of(masks: BoolMask, regions: Sequence[MarkedObject]) -> npt.NDArray[np.float32]:
    """IoU (K, T) of low-resolution masks (K, L, L) with people's regions; of boxes where a region is only a box."""
    return _overlaps_of(masks, regions, _all_squeezed(regions, masks.shape[-1]))


def _overlaps_of(masks: BoolMask, regions: Sequence[MarkedObject], small: BoolMask) -> npt.NDArray[np.float32]:
    overlap = _overlaps(masks, small)
    if boxes := [k for k, one in enumerate(regions) if one.box_only]:
        overlap[:, boxes] = _overlaps(np.array([box_of(mask) for mask in masks]).reshape(masks.shape), small[boxes])
    return overlap


def _all_squeezed(regions: Sequence[MarkedObject], side: int) -> BoolMask:
    return np.array([_squeezed(one.mask, side) for one in regions], bool).reshape(len(regions), side, side)


def _squeezed(mask: BoolMask, side: int) -> BoolMask:
    """A mask (H, W) on a grid of cells; the smallest object keeps the cell that it covers most."""
    import cv2

    cells = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray((cells >= min(0.5, float(cells.max()))) & (cells > 0))


def box_of(mask: BoolMask) -> BoolMask:
    """The box around a mask (H, W), as a mask; an empty one for an empty one."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    if len(ys):
        box[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = True
    return box


def _overlaps(masks: BoolMask, others: BoolMask) -> npt.NDArray[np.float32]:
    """IoU (K, T) of (K, L, L) with (T, L, L)."""
    cells = masks.shape[-2] * masks.shape[-1]
    rows, columns = (part.reshape(len(part), cells).astype(np.float32) for part in (masks, others))
    both = rows @ columns.T
    return np.asarray(both / np.maximum(rows.sum(1)[:, None] + columns.sum(1)[None] - both, 1), np.float32)
