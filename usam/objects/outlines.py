"""How well an outline lies on its picture, and how well it would lie elsewhere: what tells a moved outline and a half
from a right one.

Shapes: K masks of the model's own, F numbers of `OUTLINE_NAMES`, C copies; S side of the grid, D shifts a side.

An object is looked at on a grid of its own, so that numbers mean the same for small and large ones. Edges of the
picture, edges of the model's masks, those masks themselves and the contrast of colours inside and outside are each
compared with the outline where it lies and where it would lie if it were moved by up to 0.4 of its box: a label that
the model cannot cut gains nothing by moving. How far the model goes on beyond it is `usam.objects.growth`, and what
its shape says `usam.objects.outline_shape`. What is usual differs by project, so copies of each label, moved and cut on
purpose, are measured beside it, for a project to learn from (`usam.objects.outline_doubt`).

    found = measure_outline(image, mask, masks, scores, masks_at, seed=7)
    found.figures[0]   # of the label; found.figures[1:] of its spoiled copies
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import MaskError
from usam.masks.overlap import mask_box
from usam.objects.growth import GROWTH_NAMES, Surroundings, measure_growth
from usam.objects.outline_copies import COPIES, spoilt_copies
from usam.objects.outline_shape import SHAPE_FIGURES, measure_shape, straight_edges
from usam.prompts import dense_points

Floats = npt.NDArray[np.floating[Any]]
Float32s = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
MasksAt = Callable[[Float32s], tuple[Float32s, Float32s]]
"""Points (N, P, 2) inside N objects, x, y in pixels of the image, to the model's masks of them: logits (N, 4, h, w) of
the whole image, the single mask first, and their predicted IoU (N, 4)."""

SIDE, MARGIN, REACH = 72, 0.8, 11
"""Cells of the grid a side, of which the object's box takes 1 / (1 + 2 MARGIN), and cells by which it is moved."""
NEAR = 2
"""Cells by which an outline may be off and still count as where it lies."""
AROUND, SMALLEST = 1.4, 48
"""Sides of the box around it that are kept of a picture, and pixels to which the box is shrunk first."""
MOST_MASKS = 12
"""Masks of the model's that a label is compared with, those that overlap with it most."""
FAR = 0.2
"""Of the box, from which on a shift is another place."""
_PEAK = ("here", "height", "gain", "length", "over_far", "share")
_EDGES = ("fine", "coarse", "masks")
_SIDES = ("weakest", "second", "weakest_share")
_MASKS = (
    "raw_gain", "inside", "covered", "iou", "score", "larger", "same", "likeliest_gain", "likeliest_length",
    "likeliest_iou",
)  # fmt: skip
_POINTS = {"dense": slice(None), "point": slice(1)}
"""The points inside an outline that the model is asked about: all eight, and the middle one alone."""
OUTLINE_NAMES = (
    *(f"{edge}_{name}" for edge in _EDGES for name in (*_PEAK, *_SIDES)),
    *(f"overlap_{name}" for name in (*_PEAK, *_MASKS)),
    *(f"contrast_{name}" for name in (*_PEAK, "spread")),
    "fill",
    "size",
    *SHAPE_FIGURES,
    *(f"{points}_{name}" for points in _POINTS for name in GROWTH_NAMES),
)
HINT_NAMES = ("move_x", "move_y", "side_x", "side_y", "missing")
_CELL = (1 + 2 * MARGIN) / SIDE
_STEPS = np.arange(-REACH, REACH + 1) * _CELL
_LENGTHS = np.hypot(*np.meshgrid(_STEPS, _STEPS))
_HERE, _FAR = slice(REACH - NEAR, REACH + NEAR + 1), _LENGTHS > FAR


@dataclass(frozen=True, eq=False)
class OutlineFigures:
    """`figures` (C, F) of a label and of its copies, in the order of `COPIES`; `hints` (H,) of `HINT_NAMES`: by how
    many pixels the outline would lie best, on which side the object goes on if it does, a direction of length 1, and
    which share of it is missing then."""

    figures: Float32s
    hints: Float32s


def measure_outline(
    image: npt.NDArray[np.uint8],
    mask: BoolMask,
    masks: npt.NDArray[Any],
    scores: Floats,
    masks_at: MasksAt,
    seed: int,
    *,
    copied: bool = True,
) -> OutlineFigures:
    """Measure one label.

    Parameters:
        image: (H, W, 3) RGB.
        mask: (H, W) the label, not empty.
        masks: (K, h, w) the model's masks of the whole image, at any size.
        scores: (K,) predicted IoU, 0..1.
        masks_at: the model, asked once for eight points inside each and once for one.
        seed: of points and copies; the same seed gives the same.
        copied: whether copies are measured too; their figures are NaN without.

    Raises `MaskError` for an empty mask.
    """
    if not mask.any():
        raise MaskError("a mask with at least one pixel", "an empty one", "leave it out")
    patch = _patch(image, mask, masks, scores)
    rng = np.random.default_rng(seed)
    drawn = [patch.mask]
    if copied:
        drawn += spoilt_copies(patch.mask, rng)
    points = np.stack([patch.in_image(dense_points(one, rng)) for one in drawn])
    told = [masks_at(points[:, chosen]) for chosen in _POINTS.values()]
    figures = np.full((len(COPIES), len(OUTLINE_NAMES)), np.nan, np.float32)
    measured = [
        _figures(patch, one, [(logits[row], iou[row]) for logits, iou in told]) for row, one in enumerate(drawn)
    ]
    figures[: len(drawn)] = [numbers for numbers, _ in measured]
    return OutlineFigures(figures, np.array(measured[0][1], np.float32))


@dataclass(frozen=True, eq=False)
class _Patch:
    """A label's surroundings: `image` (h, w, 3), `mask` (h, w), the model's `masks` (h, w, K) overlapping it most,
    with their `scores` and their whole `areas` (K,) in pixels of the patch; `share` of the image that the label
    covers. It begins at `corner` x, y of an image of `hw`, and its pixels are `step` of those, across and down."""

    image: npt.NDArray[np.uint8]
    mask: BoolMask
    masks: Float32s
    scores: Floats
    areas: Floats
    share: float
    corner: tuple[int, int]
    step: tuple[float, float]
    hw: tuple[int, int]

    def in_image(self, points: Float32s) -> Float32s:
        """Pixels x, y (N, 2) of the patch in pixels of the image."""
        inside = np.nextafter(np.array(self.hw[::-1], np.float32), np.float32(0))
        return np.clip((points + 0.5) * self.step + self.corner, 0, inside).astype(np.float32)

    def on_grid(self, masks: Float32s, window: Box) -> Float32s:
        """Masks (M, h, w) of the whole image in a window x, y, width, height of the patch, (M, SIDE, SIDE)."""
        across, down = masks.shape[2] / self.hw[1], masks.shape[1] / self.hw[0]
        x, y, wide, tall = window
        place = (
            (self.corner[0] + x * self.step[0]) * across,
            (self.corner[1] + y * self.step[1]) * down,
            wide * self.step[0] * across,
            tall * self.step[1] * down,
        )
        return np.stack([_sampled(np.ascontiguousarray(one, np.float32), place, (SIDE, SIDE)) for one in masks])


def _patch(image: npt.NDArray[np.uint8], mask: BoolMask, masks: npt.NDArray[Any], scores: Floats) -> _Patch:
    """The surroundings of a label."""
    height, width = mask.shape
    left, top, right, bottom = mask_box(mask).astype(int).tolist()
    wide, tall = right - left, bottom - top
    x0, x1 = max(int(left - AROUND * wide), 0), min(int(np.ceil(right + AROUND * wide)), width)
    y0, y1 = max(int(top - AROUND * tall), 0), min(int(np.ceil(bottom + AROUND * tall)), height)
    size = (
        max(round((x1 - x0) * min(1.0, SMALLEST / wide)), 1),
        max(round((y1 - y0) * min(1.0, SMALLEST / tall)), 1),
    )
    across, down = (x1 - x0) / size[0], (y1 - y0) / size[1]
    colours = np.asarray(cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA), np.uint8)
    covered = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small = (covered >= min(0.5, float(covered.max()))) & (covered > 0)
    rows, columns = masks.shape[1] / height, masks.shape[2] / width
    ys, xs = (
        slice(int(top * rows), int(np.ceil(bottom * rows))),
        slice(int(left * columns), int(np.ceil(right * columns))),
    )
    near = np.flatnonzero((masks[:, ys, xs] > 0).any((1, 2)))
    window = (x0 * columns, y0 * rows, (x1 - x0) * columns, (y1 - y0) * rows)
    parts = [_sampled((masks[k] > 0).astype(np.float32), window, size) for k in near]
    areas = (masks[near] > 0).sum((1, 2)) / (rows * columns * across * down)
    shared = np.array([float(part[small].sum()) for part in parts])
    most = np.argsort(-shared / np.maximum(small.sum() + areas - shared, 1e-6), kind="stable")[:MOST_MASKS]
    kept = np.stack([parts[k] for k in most], -1) if len(most) else np.zeros((size[1], size[0], 0), np.float32)
    near, areas = near[most], areas[most]
    share = float(mask.mean())
    return _Patch(
        colours, small, kept, np.asarray(scores)[near], areas, share, (x0, y0), (across, down), (height, width)
    )


def _sampled(array: npt.NDArray[Any], window: Box, size: tuple[int, int], border: float | None = None) -> Any:
    """A window x, y, width, height of an array on a grid of `size`; outside it is `border`, None for the nearest."""
    x, y, wide, tall = window
    across, down = wide / size[0], tall / size[1]
    matrix = np.array([[across, 0, x + across / 2 - 0.5], [0, down, y + down / 2 - 0.5]])
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=mode, borderValue=border or 0.0)


def _figures(
    patch: _Patch, mask: BoolMask, answers: list[tuple[Float32s, Float32s]]
) -> tuple[list[float], list[float]]:
    """F numbers of a mask on a patch, and its hints. `answers`: logits (M, h, w) and predicted IoU (M,), for
    `_POINTS`."""
    left, top, right, bottom = mask_box(mask).astype(int).tolist()
    wide, tall = right - left, bottom - top
    window = (left - MARGIN * wide, top - MARGIN * tall, wide * (1 + 2 * MARGIN), tall * (1 + 2 * MARGIN))
    grid = (SIDE, SIDE)
    inside = _sampled(np.ones(mask.shape, np.float32), window, grid, 0.0) > 0.99
    known = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    drawn = _sampled(mask.astype(np.float32), window, grid, 0.0)
    drawn = (drawn >= min(0.5, float(drawn.max()))).astype(np.float32)
    colours = cv2.cvtColor(_sampled(patch.image, window, grid).astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
    models = np.zeros((*grid, 0), np.float32)
    if patch.masks.size:
        models = cv2.GaussianBlur(_sampled(patch.masks, window, grid, 0.0), (0, 0), 1.0).reshape(*grid, -1)
    outline = _Outline.of(drawn, known)
    edges = {
        "fine": _edges(cv2.GaussianBlur(colours, (0, 0), 0.75)),
        "coarse": _edges(cv2.GaussianBlur(colours, (0, 0), 2.25)),
        "masks": _edges(models, patch.scores),
    }
    numbers, maps = [], []
    for name in _EDGES:
        found, told = outline.on(edges[name])
        numbers += told
        maps.append(found)
    cells = patch.areas / max(wide * tall * _CELL**2, 1e-6)
    numbers += _on_masks(drawn, np.moveaxis(models, -1, 0), patch.scores, cells)
    contrast, spread = _contrast(drawn, colours, known)
    numbers += [*_peak(contrast), spread, float(drawn.sum()) * _CELL**2, float(np.log(patch.share + 1e-6))]
    body = drawn > 0
    straight = straight_edges(body, inside)
    numbers += measure_shape(body, straight)
    together = sum((one - one.mean()) / (one.std() + 1e-6) for one in (maps[0], maps[2], contrast))
    row, column = np.unravel_index(int(np.argmax(together)), _LENGTHS.shape)
    around = Surroundings(body, inside, straight)
    growth = [measure_growth(around, patch.on_grid(logits, window), iou) for logits, iou in answers]
    across, down = patch.step
    move = [float(_STEPS[column] * wide * across), float(_STEPS[row] * tall * down)]
    for one in growth:
        numbers += one.figures.tolist()
    return numbers, [*move, *growth[0].side, growth[0].missing]


def _edges(layers: Float32s, weights: Floats | None = None) -> Float32s:
    """Strength and direction of edges (3, S, S) of layers (S, S, C): xx, xy and yy of the gradients' products, over
    their length. Of all layers together, or with `weights` (C,) the sum of the edges of each."""
    if not layers.size:
        return np.zeros((3, SIDE, SIDE), np.float32)
    x, y = (cv2.Scharr(layers, cv2.CV_32F, *order).reshape(SIDE, SIDE, -1) / 32 for order in ((1, 0), (0, 1)))
    if weights is not None:
        length = np.sqrt(x * x + y * y + 1e-12)
        return np.stack([(part / length) @ weights for part in (x * x, x * y, y * y)]).astype(np.float32)
    products = np.stack([np.einsum("ijk,ijk->ij", *pair) for pair in ((x, x), (x, y), (y, y))])
    return np.asarray(products / np.sqrt(products[0] + products[2] + 1e-12), np.float32)


def _moving(pattern: Float32s, over: Float32s) -> Float32s:
    """Sum of products of `over` (..., S, S) with a pattern moved by each shift, (..., D, D)."""
    from scipy.fft import irfft2, rfft2

    found = irfft2(rfft2(pattern).conj() * rfft2(over), s=(SIDE, SIDE))
    count = 2 * REACH + 1
    return np.asarray(np.roll(found, (REACH, REACH), (-2, -1))[..., :count, :count], np.float32)


def _peak(values: Float32s) -> list[float]:
    """Of values (D, D) at each shift: the one here, how far it stands out, what moving gains, and by how far a move."""
    here, spread = float(values[_HERE, _HERE].max()), float(values.std()) + 1e-6
    most, best = float(values.max()), np.unravel_index(int(values.argmax()), values.shape)
    far = float(values[_FAR].max())
    return [
        here,
        (here - float(values.mean())) / spread,
        (most - here) / spread,
        float(_LENGTHS[best]),
        (here - far) / spread,
        here / (most + 1e-6),
    ]


@dataclass(frozen=True, eq=False)
class _Outline:
    """Where an outline lies on the grid: `weight` (S, S), `across` (3, S, S) its direction as `_edges` tells it,
    `normals` (2, S, S), `known` (S, S) where the picture is, and `length` (D, D) of what lies there when moved."""

    weight: Float32s
    across: Float32s
    normals: Float32s
    known: Float32s
    length: Float32s

    @classmethod
    def of(cls, drawn: Float32s, known: Float32s) -> _Outline:
        soft = cv2.GaussianBlur(drawn, (0, 0), 1.0)
        x, y = (cv2.Scharr(soft, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1)))
        weight = np.asarray(np.sqrt(x * x + y * y) + 1e-9, np.float32)
        across = np.asarray(np.stack([x * x, 2 * x * y, y * y]) / weight, np.float32)
        length = np.maximum(_moving(weight, known), np.float32(0.15 * weight.sum()))
        return cls(weight, across, np.stack([x, y]), known, length)

    def on(self, edges: Float32s) -> tuple[Float32s, list[float]]:
        """Mean strength of edges along the outline at each shift (D, D), as a multiple of what is usual around it; and
        the numbers of `_PEAK` and `_SIDES`."""
        edges = edges * self.known
        usual = float((edges[0] + edges[2]).sum()) / max(float(self.known.sum()), 1.0) + 1e-6
        values = _moving(self.across, edges).sum(0) / self.length / usual
        local = (self.across * edges).sum(0) / np.maximum(self.weight, 1e-6) / usual * (self.weight > 1e-3)
        local = cv2.dilate(local.astype(np.float32), np.ones((3, 3), np.uint8))
        x, y = self.normals
        sides = []
        for chosen in (x > abs(y), x < -abs(y), y > abs(x), y < -abs(x)):
            weight = self.weight * chosen * self.known
            if weight.sum() > 0.03 * self.weight.sum():
                sides.append(float((local * weight).sum() / weight.sum()))
        mean = float(np.mean(sides)) if sides else 0.0
        weakest = sorted([*sides, *[mean] * (4 - len(sides))])
        return values, [*_peak(values), weakest[0], weakest[1], weakest[0] / (mean + 1e-6)]


def _on_masks(drawn: Float32s, models: Float32s, scores: Floats, areas: Floats) -> list[float]:
    """The numbers of `overlap_...`: how the label overlaps with the model's masks (K, S, S), here and when moved."""
    if not len(models):
        return [0.0] * (len(_PEAK) + len(_MASKS))
    hard, area = (models > 0.5).astype(np.float32), float(drawn.sum())
    both = np.maximum(_moving(drawn, hard), 0.0)
    sizes = np.maximum(areas, hard.sum((1, 2)))
    overlap = both / np.maximum(area + sizes[:, None, None] - both, 1e-6)
    best, here, shared = overlap.max(0), overlap[:, REACH, REACH], both[:, REACH, REACH]
    nearest = int(here.argmax())
    larger = (shared > 0.8 * area) & (sizes > 1.35 * area) & (sizes < 3.5 * area)
    same = float(np.where(here > 0.6, scores, 0.0).max())
    likeliest = overlap[int((overlap.max((1, 2)) * scores).argmax())]
    return [
        *_peak(best),
        float(best.max() - best[REACH, REACH]),
        float(shared[nearest] / area),
        float(shared[nearest] / max(sizes[nearest], 1e-6)),
        float(here[nearest]),
        float(scores[nearest]),
        float(np.where(larger, scores, 0.0).max()) - same,
        same,
        float(likeliest.max() - likeliest[REACH, REACH]),
        float(_LENGTHS[np.unravel_index(int(likeliest.argmax()), likeliest.shape)]),
        float(likeliest.max()),
    ]


def _contrast(drawn: Float32s, colours: Float32s, known: Float32s) -> tuple[Float32s, float]:
    """How much the colours inside differ from those in a ring around, by how much they vary, at each shift (D, D); and
    how varied they are inside here, by what is usual."""
    ring = cv2.dilate(drawn, np.ones((7, 7), np.uint8)) - drawn
    layers = np.moveaxis(colours, -1, 0) * known
    square = (layers * layers).sum(0, keepdims=True)
    told = []
    for pattern in (drawn, ring):
        count, sums = np.maximum(_moving(pattern, known), 1.0), _moving(pattern, np.concatenate([layers, square]))
        mean = sums[:3] / count
        told.append((mean, np.maximum(sums[3] / count - (mean**2).sum(0), 0.0)))
    (inner, varied), (outer, varied_outside) = told
    values = ((inner - outer) ** 2).sum(0) / (varied + varied_outside + 1e-3)
    return values.astype(np.float32), float(varied[REACH, REACH] / (varied.mean() + 1e-6))
