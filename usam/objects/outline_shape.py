"""What the shape of an outline alone says: a straight edge on one side of it, and how lopsided it is.

Shapes: S side of the grid of `usam.objects.outlines`; A directions; B cells of the border.

What is cut off ends in a straight line, across the object and away from the picture's own border. Some objects do; so
what is usual is learnt from a project's labels and copies (`usam.objects.outline_doubt`).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

BoolMask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

SHAPE_FIGURES = (
    "ellipse", "lopsided", "lopsided_least", "tails", "aspect", "solid",
    "straight", "straight_beyond_opposite", "straight_usual", "straight_depth", "straight_place", "straight_share",
    "straight_cells",
)  # fmt: skip
DIRECTIONS = 48
NEAR = 1.6
"""Cells within which the border counts as lying on a straight line."""
_ANGLES = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
_ACROSS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_ALONG = np.stack([-np.sin(_ANGLES), np.cos(_ANGLES)])
_OPPOSITE = (np.arange(DIRECTIONS) + DIRECTIONS // 2) % DIRECTIONS


def measure_shape(drawn: BoolMask, known: BoolMask) -> list[float]:
    """The numbers of `SHAPE_FIGURES` of an object drawn (S, S), not empty; known (S, S) where the picture is."""
    rows, columns = np.nonzero(drawn)
    middle = np.array([columns.mean(), rows.mean()])
    places = np.stack([columns, rows], 1) - middle
    spread, axes = np.linalg.eigh(places.T @ places / len(places) + np.eye(2) / 12)
    even = places @ axes / np.sqrt(spread)
    everywhere = np.stack(np.meshgrid(*map(np.arange, drawn.shape[::-1])), -1)
    ellipse = (((everywhere - middle) @ axes / np.sqrt(spread)) ** 2).sum(-1) <= 4
    skew = np.abs((even**3).mean(0))
    outlines, _ = cv2.findContours(drawn.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = np.concatenate(outlines)[:, 0]
    hull = cv2.convexHull(border)
    round_it = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2
    return [
        float((ellipse & drawn).sum() / (ellipse | drawn).sum()),
        float(skew.max()),
        float(skew.min()),
        float((even**4).mean(0).max()),
        float(np.log(spread[1] / spread[0]) / 2),
        len(rows) / max(round_it, 1.0),
        *_straightest(border - middle, _inside(known)[border[:, 1], border[:, 0]], len(rows)),
    ]


def _inside(known: BoolMask) -> BoolMask:
    return cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0


def _straightest(border: Floats, inside: BoolMask, area: int) -> list[float]:
    """The numbers of `straight...`: of lines that touch the object from each direction, how much of the border lies on
    one. `border` (B, 2) from the middle; `inside` (B,) where it is not the picture's own."""
    across, along = border @ _ACROSS, border @ _ALONG
    furthest, width = across.max(0), along.max(0) - along.min(0)
    on = (across > furthest - NEAR) & inside[:, None]
    count = on.sum(0)
    first, last = np.where(on, along, np.inf).min(0), np.where(on, along, -np.inf).max(0)
    length = np.where(count > 0, last - first, 0.0)
    share = length / np.maximum(width, 1.0)
    straight = share * np.minimum(count / np.maximum(length, 1.0), 1.0)
    most = int(straight.argmax())
    depth = furthest[most] + furthest[_OPPOSITE[most]]
    return [
        float(straight[most]),
        float(straight[most] - straight[_OPPOSITE[most]]),
        float(np.median(straight)),
        float(depth / max(width[most], 1.0)),
        float(furthest[most] / max(depth, 1.0)),
        float(share[most]),
        float(count[most] / area**0.5),
    ]
