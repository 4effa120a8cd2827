"""What the shape of an outline alone says: a straight edge on one side of it, and how lopsided it is.

Shapes: S side of the grid of `usam.objects.outlines`; A directions; B cells of the border.

What is cut off ends in a straight line, across the object and away from the picture's own border. Some objects do; so
what is usual is learnt from a project's labels and copies (`usam.objects.outline_doubt`).
"""

from __future__ import annotations

from dataclasses import dataclass
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


def measure_shape(drawn: BoolMask, edges: StraightEdges) -> list[float]:
    """The numbers of `SHAPE_FIGURES` of an object drawn (S, S), not empty, and its straight edges."""
    rows, columns = np.nonzero(drawn)
    middle = np.array([columns.mean(), rows.mean()])
    places = np.stack([columns, rows], 1) - middle
    spread, axes = np.linalg.eigh(places.T @ places / len(places) + np.eye(2) / 12)
    even = places @ axes / np.sqrt(spread)
    everywhere = np.stack(np.meshgrid(*map(np.arange, drawn.shape[::-1])), -1)
    ellipse = (((everywhere - middle) @ axes / np.sqrt(spread)) ** 2).sum(-1) <= 4
    skew = np.abs((even**3).mean(0))
    hull = cv2.convexHull(border_of(drawn))
    round_it = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2
    return [
        float((ellipse & drawn).sum() / (ellipse | drawn).sum()),
        float(skew.max()),
        float(skew.min()),
        float((even**4).mean(0).max()),
        float(np.log(spread[1] / spread[0]) / 2),
        len(rows) / max(round_it, 1.0),
        *_straightest(edges, len(rows)),
    ]


@dataclass(frozen=True, eq=False)
class StraightEdges:
    """Of lines that touch an object from each direction (A,): how much of the border `share` lies on one, 0..1, how
    `straight` it is there, 0..1, how many cells that is, and how far out the line lies and how wide the object is."""

    straight: Floats
    share: Floats
    count: Floats
    furthest: Floats
    width: Floats


def straight_edges(drawn: BoolMask, known: BoolMask) -> StraightEdges:
    """The straight edges of an object drawn (S, S), not empty, away from the border of what is known (S, S)."""
    rows, columns = np.nonzero(drawn)
    border = border_of(drawn)
    inside = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    places = border - np.array([columns.mean(), rows.mean()])
    across, along = places @ _ACROSS, places @ _ALONG
    furthest, width = across.max(0), along.max(0) - along.min(0)
    on = (across > furthest - NEAR) & (inside[border[:, 1], border[:, 0]] > 0)[:, None]
    count = on.sum(0)
    first, last = np.where(on, along, np.inf).min(0), np.where(on, along, -np.inf).max(0)
    length = np.where(count > 0, last - first, 0.0)
    share = length / np.maximum(width, 1.0)
    straight = share * np.minimum(count / np.maximum(length, 1.0), 1.0)
    return StraightEdges(straight, share, count, furthest, width)


def border_of(drawn: BoolMask) -> npt.NDArray[np.int32]:
    """The cells x, y (B, 2) of an object's border."""
    outlines, _ = cv2.findContours(drawn.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(np.concatenate(outlines)[:, 0], np.int32)


def _straightest(edges: StraightEdges, area: int) -> list[float]:
    """The numbers of `straight...`."""
    straight, width = edges.straight, edges.width
    most = int(straight.argmax())
    depth = edges.furthest[most] + edges.furthest[_OPPOSITE[most]]
    return [
        float(straight[most]),
        float(straight[most] - straight[_OPPOSITE[most]]),
        float(np.median(straight)),
        float(depth / max(width[most], 1.0)),
        float(edges.furthest[most] / max(depth, 1.0)),
        float(edges.share[most]),
        float(edges.count[most] / area**0.5),
    ]
