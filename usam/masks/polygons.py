"""Masks as polygons and back.

Legend: H, W height and width in pixels; K vertices of one ring. Vertices are (x, y) in pixels along pixel
edges: the pixel in the upper left corner is the square from (0, 0) to (1, 1), so a ring without
simplification encloses exactly the pixels that it was traced from. Rings are closed without repeating the
first vertex.

Label Studio's polygons have no holes. A hole is therefore joined to its outer ring by a bridge of no width,
there and back, which leaves it open under the even-odd rule (this module, browsers with `evenodd`) and, as
holes run against their outer ring, under the non-zero rule too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from usam.errors import MaskError
from usam.masks.overlap import BoolMask, FloatArray, as_mask, mask_box

CROSSINGS_AT_ONCE, MOST_CROSSINGS = 1_000_000, 20_000_000
"""Of rows by edges: each takes some dozen bytes while it is looked at, and edges may run to and fro."""
STAIRCASE = 1.25
"""Pixels: just above the 1 by which pixel edges leave a slanted line, so that its stairs, and little else, vanish."""


@dataclass(frozen=True, eq=False)
class Region:
    """One connected part of a mask (pixels that touch by a corner are connected): its rings (K, 2), xy in
    pixels."""

    outer: FloatArray
    holes: tuple[FloatArray, ...] = ()

    def bridged(self) -> FloatArray:
        """One ring (K, 2) that leaves the holes open, each reached from the outer vertex nearest to it."""
        if not self.holes:
            return self.outer
        sizes = [len(hole) for hole in self.holes]
        gaps, anchors = cKDTree(self.outer).query(np.concatenate(self.holes))
        attached: dict[int, list[FloatArray]] = {}
        for hole, first in zip(self.holes, np.cumsum(sizes) - sizes, strict=True):
            entry = int(gaps[first : first + len(hole)].argmin())
            anchor = int(anchors[first + entry])
            turned = np.roll(hole, -entry, axis=0)
            attached.setdefault(anchor, []).extend([turned, turned[:1], self.outer[anchor : anchor + 1]])
        parts, done = [], 0
        for anchor in sorted(attached):
            parts += [self.outer[done : anchor + 1], *attached[anchor]]
            done = anchor + 1
        return np.concatenate([*parts, self.outer[done:]])


def trace_regions(mask: npt.ArrayLike, tolerance: float = STAIRCASE, min_area: float = 0.0) -> list[Region]:
    """The connected parts of `mask` (H, W), largest first, each with its holes.

    `tolerance` is how far in pixels a ring may leave the pixels' edges (Douglas-Peucker; 0 keeps every
    corner); parts and holes of less than `min_area` square pixels are left out. A ring that simplification
    would flatten to a line keeps its corners. Raises `MaskError` for a malformed mask or a negative
    tolerance.
    """
    if not tolerance >= 0:
        raise MaskError("a tolerance of at least 0 pixels", f"{tolerance}")
    checked = as_mask(mask)
    x0, y0, x1, y1 = (int(v) for v in mask_box(checked))
    if x1 == 0:
        return []
    lattice = _corner_lattice(checked[y0:y1, x0:x1])
    traced, tree = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = tree[0][:, 3].tolist()
    rings, areas = _along_pixel_edges(traced)
    shift = np.array([x0, y0], np.float32)
    kept = {int(n): _simplified(rings[n] + shift, tolerance) for n in np.flatnonzero(areas >= min_area)}
    holes: dict[int, list[FloatArray]] = {number: [] for number in kept}
    for number, parent in enumerate(parents):
        if number in kept and parent in kept:
            holes[parent].append(kept[number])
    outer = sorted((number for number in kept if parents[number] < 0), key=lambda number: -float(areas[number]))
    return [Region(kept[number], tuple(holes[number])) for number in outer]


def mask_to_polygons(
    mask: npt.ArrayLike,
    tolerance: float = STAIRCASE,
    min_area: float = 0.0,
    holes: Literal["bridge", "fill"] = "bridge",
) -> list[FloatArray]:
    """One ring (K, 2) float32, K >= 3, xy in pixels, for each connected part of `mask` (H, W), largest first.

    Holes are bridged, or filled when told so; `count_holes` says how many there are. Parameters and errors
    are those of `trace_regions`. With `tolerance` 0 and bridges, `polygon_to_mask` gives the mask back
    exactly.
    """
    regions = trace_regions(mask, tolerance, min_area)
    return [region.bridged() if holes == "bridge" else region.outer for region in regions]


def count_holes(mask: npt.ArrayLike, min_area: float = 0.0) -> int:
    """How many holes of at least `min_area` square pixels the mask (H, W) has."""
    return sum(len(region.holes) for region in trace_regions(mask, 0.0, min_area))


def polygon_to_mask(polygons: npt.ArrayLike | Sequence[npt.ArrayLike], image_hw: tuple[int, int]) -> BoolMask:
    """(H, W) bool: the pixels whose centre lies in a ring (K, 2) or in any of several, by the even-odd rule.

    Rings may leave the image, cross themselves and have fractional vertices. Raises `MaskError` for a ring of
    fewer than three vertices, other shapes, NaN, a size of 0, or one that crosses more rows than any outline does.
    """
    height, width = image_hw
    if height < 1 or width < 1:
        raise MaskError("an image size (H, W) of at least 1 x 1", f"{image_hw}")
    inside = np.zeros((height, width), np.bool_)
    for ring in _rings(polygons):
        _fill(ring, inside)
    return inside


def _corner_lattice(mask: BoolMask) -> npt.NDArray[np.uint8]:
    """Pixel corners at even, centres at odd places: (2H + 1, 2W + 1), 1 where a pixel or one of its borders
    lies."""
    height, width = mask.shape
    lattice = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    lattice[1::2, 1::2] = mask
    return np.asarray(cv2.dilate(lattice, np.ones((3, 3), np.uint8)), np.uint8)


def _along_pixel_edges(traced: Sequence[npt.NDArray[Any]]) -> tuple[list[FloatArray], npt.NDArray[np.float64]]:
    """Rings traced on the lattice as rings of pixel corners (K, 2), in pixels, with their areas.

    Border following cuts across inward corners, from the middle of one pixel edge to the middle of the next; the
    corner between the two is put back.
    """
    points, sizes = np.concatenate(traced)[:, 0], np.array([len(ring) for ring in traced])
    following = points[_successors(sizes)]
    on_vertical_edge = points[:, :1] % 2 == 0
    corners = np.where(on_vertical_edge ^ np.array([False, True]), points, following)
    candidates = np.stack([points, corners], axis=1)
    wanted = np.stack([(points % 2 == 0).all(1), (points != following).all(1)], axis=1)
    vertices = candidates[wanted] / 2
    counts = np.add.reduceat(wanted.sum(axis=1), np.cumsum(sizes) - sizes)
    (x, y), (next_x, next_y) = vertices.T, vertices[_successors(counts)].T
    areas = np.abs(np.add.reduceat(x * next_y - next_x * y, np.cumsum(counts) - counts)) / 2
    return np.split(vertices.astype(np.float32), np.cumsum(counts)[:-1]), areas


def _successors(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For rings of `sizes` vertices one after the other, the place of the vertex that follows each vertex."""
    after, ends = np.arange(1, sizes.sum() + 1), np.cumsum(sizes)
    after[ends - 1] = ends - sizes
    return after


def _simplified(points: FloatArray, tolerance: float) -> FloatArray:
    if tolerance == 0:
        return points
    shorter = np.asarray(cv2.approxPolyDP(points[:, None], tolerance, closed=True)[:, 0], np.float32)
    return shorter if len(shorter) >= 3 else points


def _rings(polygons: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[npt.NDArray[np.float64]]:
    try:
        several = [np.asarray(ring, np.float64) for ring in polygons]  # type: ignore[union-attr]
    except (TypeError, ValueError) as cause:
        raise MaskError("rings of vertices (K, 2)", str(cause)) from cause
    rings = [np.stack(several)] if several and all(ring.shape == (2,) for ring in several) else several
    for ring in rings:
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
            raise MaskError("a ring of at least three vertices, (K, 2)", f"shape {ring.shape}")
        if not np.isfinite(ring).all():
            raise MaskError("finite vertices", "NaN or infinity")
    return rings


def _fill(ring: npt.NDArray[np.float64], inside: BoolMask) -> None:
    """Even-odd filling, in the ring's own box: every edge flips, in each row whose centre it crosses, all pixels right
    of the crossing."""
    size = np.array(inside.shape[::-1])
    left, top = (int(low) for low in np.clip(np.floor(ring.min(0)), 0, size))
    right, bottom = (int(high) for high in np.clip(np.ceil(ring.max(0)), 0, size))
    height, width = bottom - top, right - left
    if height < 1 or width < 1:
        return
    local = ring - (left, top)
    ends = np.stack([local, np.roll(local, -1, axis=0)], axis=1)
    downward = ends[:, 0, 1] > ends[:, 1, 1]
    ends[downward] = ends[downward, ::-1]
    first, last = np.clip(np.ceil(ends[..., 1] - 0.5), 0, height).astype(np.int64).T
    crossed = np.cumsum(last - first)
    if crossed[-1] == 0:
        return
    if crossed[-1] > MOST_CROSSINGS:
        raise MaskError(f"a ring that crosses at most {MOST_CROSSINGS:,} rows", f"{crossed[-1]:,}", "draw it simpler")
    flips = np.zeros(height * (width + 1), np.uint8)  # of which only the last bit counts
    bounds = np.searchsorted(crossed, np.arange(0, crossed[-1], CROSSINGS_AT_ONCE), side="right")
    for start, end in zip(bounds, [*bounds[1:], len(ring)], strict=True):
        rows, (begins, goals) = last[start:end] - first[start:end], ends[start:end].transpose(1, 0, 2)
        edge = np.repeat(np.arange(len(rows)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[start:end][edge]
        along = (row + 0.5 - begins[edge, 1]) / (goals - begins)[edge, 1]
        x = begins[edge, 0] + along * (goals - begins)[edge, 0]
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.add.at(flips, row * (width + 1) + column, np.uint8(1))
    odd = np.bitwise_xor.accumulate(flips.reshape(height, width + 1)[:, :width] & 1, axis=1)
    inside[top:bottom, left:right] |= odd.view(np.bool_)
