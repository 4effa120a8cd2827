"""How far an object goes on beyond its outline, by the masks that the model makes of points inside it.

Shapes: M = 4 masks of one prompt, the single one first; S side of the grid of `usam.objects.outlines`; F numbers of
`GROWTH_NAMES`; A sectors, directions from the middle of the object.

Points inside a half are points inside the whole: the model's masks of them go on beyond the cut, on one side of the
outline alone. Those of a right outline stop at it, and those of a moved one go on at one side and are missing at the
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usam.objects.outline_shape import DIRECTIONS, StraightEdges

Floats = npt.NDArray[np.floating[Any]]
Float32s = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]

SECTORS = 16
NEAR, INSIDE = 5, 3
"""Cells outside and inside of an outline that are told apart by sectors."""
LEAST_CELLS = 3.0
"""Of a sector, weighted, below which nothing is known of it."""
MOST_GROWTH = 5.0
_ANGLES = np.arange(SECTORS) * 2 * np.pi / SECTORS
_OPPOSITE = (np.arange(SECTORS) + SECTORS // 2) % SECTORS
_OF_ONE = ("growth", "lost", "side")
GROWTH_NAMES = (
    "best_iou", "likeliest_iou", "single_iou", "mean_iou", "best_score", "likeliest_score",
    *(f"{which}_{name}" for which in ("likeliest", "best", "single") for name in _OF_ONE),
    "inside", "beyond", "beyond_least", "beyond_median", "beyond_span", "beyond_share", "one_sided",
    "missing", "missing_opposite", "cut", "step", "step_median",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Growth:
    """`figures` (F,) of one outline; `side` x, y of length 1: where the model's masks go on beyond a straight edge;
    `missing` how much of the whole object lies there, 0..1."""

    figures: Float32s
    side: tuple[float, float]
    missing: float


class Surroundings:
    """What any masks of an object are compared with: the object `drawn` (S, S), not empty; `known` (S, S) where the
    picture is; bands outside and inside of the outline by sectors; and the object's straight `edges`."""

    def __init__(self, drawn: BoolMask, known: BoolMask, edges: StraightEdges) -> None:
        rows, columns = np.nonzero(drawn)
        self.drawn, self.beyond = drawn, ~drawn & known
        self.middle = np.array([columns.mean(), rows.mean()])
        body = drawn.astype(np.uint8)
        ring = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * NEAR + 1, 2 * NEAR + 1))
        self.outer = _Sectors((cv2.dilate(body, ring) > 0) & self.beyond, self.middle)
        inner = drawn & ~(cv2.erode(body, np.ones((2 * INSIDE + 1, 2 * INSIDE + 1), np.uint8)) > 0)
        self.inner = _Sectors(inner, self.middle)
        each = DIRECTIONS // SECTORS
        self.straight = np.roll(edges.straight, each // 2).reshape(SECTORS, each).max(1)


def measure_growth(around: Surroundings, logits: Float32s, scores: Floats) -> Growth:
    """Compare an outline with masks of points inside it: logits (M, S, S) and their scores (M,), 0..1."""
    drawn, middle = around.drawn, around.middle
    weights = np.clip(scores, 1e-3, None)
    likely = np.tensordot(weights / weights.sum(), 1 / (1 + np.exp(-np.clip(logits, -30, 30))), 1)
    told, beyond = _of_sectors(likely, float(likely[drawn].mean()), around.outer, around.inner)
    most = int((beyond * around.straight).argmax())
    side = np.array([np.cos(_ANGLES[most]), np.sin(_ANGLES[most])])
    rows, columns = np.nonzero(around.beyond)
    there = (columns - middle[0]) * side[0] + (rows - middle[1]) * side[1] > 0
    more = float(likely[rows, columns][there].sum())
    figures = [*_of_masks(around, logits > 0, weights), *told]
    return Growth(np.array(figures, np.float32), (float(side[0]), float(side[1])), more / (more + float(drawn.sum())))


def _of_masks(around: Surroundings, masks: BoolMask, scores: Floats) -> list[float]:
    drawn, middle, area = around.drawn, around.middle, float(around.drawn.sum())
    both = (masks & drawn).sum((1, 2))
    iou = both / np.maximum(masks.sum((1, 2)) + area - both, 1)
    best, likeliest = int(iou.argmax()), 1 + int(scores[1:].argmax())
    numbers = [iou[best], iou[likeliest], iou[0], (iou * scores).sum() / scores.sum(), scores[best], scores[likeliest]]
    for which in (likeliest, best, 0):
        rows, columns = np.nonzero(masks[which] & around.beyond)
        share, side = len(rows) / area, 0.0
        if len(rows):
            side = float(np.hypot(columns.mean() - middle[0], rows.mean() - middle[1])) / area**0.5 * min(share, 1.0)
        numbers += [np.log1p(min(share, MOST_GROWTH)), 1 - both[which] / area, side]
    return [float(number) for number in numbers]


def _of_sectors(likely: Float32s, inside: float, outer: _Sectors, inner: _Sectors) -> tuple[list[float], Floats]:
    """The numbers by sectors, and how likely the object goes on in each (A,)."""
    beyond, within = outer.means(likely), inner.means(likely)
    beyond = np.where(np.isfinite(beyond), beyond, np.nanmean(beyond) if np.isfinite(beyond).any() else 0.0)
    within = np.where(np.isfinite(within), within, inside)
    opposite, step = beyond - beyond[_OPPOSITE], within - beyond
    numbers = [
        inside,
        beyond.max(),
        beyond.min(),
        np.median(beyond),
        beyond.max() - beyond.min(),
        beyond.max() / (inside + 0.05),
        opposite.max(),
        within.min(),
        (beyond - within[_OPPOSITE]).max(),
        (opposite - inside + within[_OPPOSITE]).max(),
        step.min(),
        np.median(step),
    ]
    return [float(number) for number in numbers], beyond


class _Sectors:
    """Cells of a band by their direction from the middle, each sector running into its neighbours."""

    def __init__(self, band: BoolMask, middle: Floats) -> None:
        rows, columns = np.nonzero(band)
        self.cells = rows, columns
        away = np.stack([columns - middle[0], rows - middle[1]], 1)
        away /= np.maximum(np.hypot(*away.T), 1e-6)[:, None]
        weights = np.maximum(away @ np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]), 0) ** 4
        self.weights, self.sums = weights, weights.sum(0)

    def means(self, values: Float32s) -> Floats:
        """Of values (S, S) in each sector (A,), NaN where it has too few cells."""
        found = values[self.cells] @ self.weights / np.maximum(self.sums, 1e-6)
        return np.asarray(np.where(self.sums > LEAST_CELLS, found, np.nan))
