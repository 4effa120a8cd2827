"""What a person or a protocol tells the model to look at: points, boxes, low-resolution masks.

Legend: K points of one prompt; P prompts; H, W image height and width in pixels. Coordinates are pixels, x to
the right and y down. A point (x, y) lies on pixel `image[int(y), int(x)]`, so 0 <= x < W. A box is (x0, y0,
x1, y1) along pixel edges, so 0 <= x0 < x1 <= W. A label is 1 (belongs to the object) or 0 (does not).

The protocol is that of UncertainSAM (ICML 2025, arXiv 2505.05049): one point per object, and seven more where
the "dense" prompt is meant.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from usam.arrays import numbers
from usam.errors import PromptError
from usam.masks.overlap import BoolMask, as_mask, mask_box

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int32]

EROSION = 5
"""Side in pixels of the square that the mask is eroded by before its centre point is chosen."""
RANDOM_POINTS = 7
"""Points that the dense prompt adds to the centre point."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt for one object: points, a box, or both. Lists are converted.

    Parameters
    ----------
    points
        (K, 2) float32, pixels x, y; K may be 0 when there is a box.
    labels
        (K,) int32: 1 belongs to the object, 0 does not.
    box
        (4,) float32 x0, y0, x1, y1 in pixels, or None.

    Raises
    ------
    PromptError
        Wrong shapes or labels, NaN, or a prompt of nothing; `check(image_hw)` also judges the position.

    Examples
    --------
    >>> prompt = usam.Prompt([[40, 30]], [1]).with_point([90, 100], 0)
    >>> prompt.points.shape, prompt.labels.tolist()
    ((2, 2), [1, 0])
    >>> prompt.check(image_hw=(120, 160)) is prompt
    True
    """

    points: FloatArray
    labels: IntArray
    box: FloatArray | None = None

    def __post_init__(self) -> None:
        nothing = isinstance(self.points, Sized) and len(self.points) == 0
        points, labels = _shaped_points(np.empty((0, 2)) if nothing else self.points, self.labels)
        if points.ndim != 2:
            raise PromptError("the points (K, 2) of one prompt", f"shape {points.shape}", "make one Prompt each")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)
        if self.box is not None:
            object.__setattr__(self, "box", _shaped_box(self.box).reshape(-1))
            if self.box.shape != (4,):
                raise PromptError("one box (4,)", f"shape {self.box.shape}", "make one Prompt each")
        elif len(points) == 0:
            raise PromptError("at least one point or a box", "an empty prompt", "click the object or draw a box")

    def check(self, image_hw: tuple[int, int]) -> Prompt:
        """This prompt, once every point and the box are known to lie in the image; else `PromptError`."""
        if len(self.points):
            validate_points(self.points, self.labels, image_hw)
        if self.box is not None:
            validate_box(self.box, image_hw)
        return self

    def with_point(self, xy: npt.ArrayLike, label: int) -> Prompt:
        """The same prompt with one click more at `xy` (2,)."""
        point = numbers(xy, "a point (2,)", 1, PromptError)
        if point.shape != (2,):
            raise PromptError("a point (2,)", f"shape {point.shape}", "give x and y")
        return Prompt(np.concatenate([self.points, point[None]]), np.append(self.labels, label), self.box)


def centre_point(mask: npt.ArrayLike) -> FloatArray:
    """(2,) xy of the pixel of the 5 x 5-eroded mask that is nearest to the mask's centroid.

    `mask` (H, W) bool. Where erosion leaves nothing, the nearest pixel of the mask itself; of several equally
    near, the uppermost, then the leftmost. Beyond the image's edge the mask is taken to go on. Raises
    `PromptError` for an empty mask.
    """
    full = _object_mask(mask)
    crop, (x0, y0) = _crop(full, EROSION // 2)
    kernel = np.ones((EROSION, EROSION), np.uint8)
    eroded = cv2.erode(crop.astype(np.uint8), kernel)
    ys, xs = np.nonzero(crop)
    centroid_x, centroid_y = xs.mean(), ys.mean()
    if eroded.any():
        ys, xs = np.nonzero(eroded)
    nearest = np.argmin((xs - centroid_x) ** 2 + (ys - centroid_y) ** 2)
    return np.array([xs[nearest] + x0, ys[nearest] + y0], np.float32)


def random_points(
    mask: npt.ArrayLike, count: int = RANDOM_POINTS, rng: np.random.Generator | None = None
) -> FloatArray:
    """(count, 2) xy of random pixels of `mask` (H, W), without repetition while it has that many.

    `rng` defaults to a fresh, unseeded generator. Raises `PromptError` for an empty mask or a negative count.
    """
    if count < 0:
        raise PromptError("a number of points of at least 0", str(count))
    rng = rng if rng is not None else np.random.default_rng()
    crop, (x0, y0) = _crop(_object_mask(mask), 0)
    pixels = np.flatnonzero(crop)
    ys, xs = np.divmod(rng.choice(pixels, count, replace=count > len(pixels)), crop.shape[1])
    return np.stack([xs + x0, ys + y0], axis=1).astype(np.float32)


def dense_points(mask: npt.ArrayLike, rng: np.random.Generator | None = None) -> FloatArray:
    """(8, 2) xy: the centre point and seven random points of `mask` (H, W). Raises `PromptError` when
    empty."""
    return np.concatenate([centre_point(mask)[None], random_points(mask, RANDOM_POINTS, rng)])


def box_of(mask: npt.ArrayLike) -> FloatArray:
    """(4,) xyxy along the outer pixel edges of `mask` (H, W). Raises `PromptError` for an empty mask."""
    return mask_box(_object_mask(mask))


def grid_points(image_hw: tuple[int, int], per_side: int) -> FloatArray:
    """(per_side**2, 2) xy: the centres of per_side x per_side equal cells, row by row."""
    height, width = image_hw
    if per_side < 1 or height < 1 or width < 1:
        raise PromptError("at least 1 point per side of an image of at least 1 x 1", f"{per_side}, {width} x {height}")
    cells = (np.arange(per_side) + 0.5) / per_side
    xs, ys = np.meshgrid(cells * width, cells * height)
    return np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)


def correction_point(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[FloatArray, int]:
    """Where a person who wants `truth` would click next on `predicted`, both (H, W) bool.

    Gives xy (2,) and its label: the pixel of the wrong area (missed: label 1; too much: label 0) that is
    farthest from that area's border, the image's edge being one too: the middle of the largest error.
    Simulated clicks of this kind are used by RITM (arXiv 2102.06583) and by SAM 2's training (arXiv
    2408.00714, section D). Raises `PromptError` where there is no error.
    """
    wanted, given = as_mask(truth, PromptError), as_mask(predicted, PromptError)
    if wanted.shape != given.shape:
        raise PromptError(f"masks of one size, {wanted.shape}", str(given.shape))
    best: tuple[float, int, int, int] | None = None
    for label, wrong in ((1, wanted & ~given), (0, given & ~wanted)):
        if not wrong.any():
            continue
        crop, (x0, y0) = _crop(wrong, 0)
        depth = cv2.distanceTransform(np.pad(crop.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
        if best is None or depth[y, x] > best[0]:
            best = (float(depth[y, x]), int(x) + x0, int(y) + y0, label)
    if best is None:
        raise PromptError("masks that differ", "equal ones", "there is nothing left to correct")
    return np.array(best[1:3], np.float32), best[3]


def validate_points(
    points: npt.ArrayLike, labels: npt.ArrayLike, image_hw: tuple[int, int]
) -> tuple[FloatArray, IntArray]:
    """Points (K, 2) or (P, K, 2) with labels (K,) or (P, K), as float32 and int32 arrays of the same shapes.

    Raises `PromptError` for other shapes, K or P of 0, NaN, a label other than 0 and 1, or a point outside
    the image.
    """
    xy, marks = _shaped_points(points, labels)
    if xy.size == 0:
        raise PromptError("at least one point", f"shape {xy.shape}", "click the object or draw a box")
    height, width = image_hw
    outside = (xy < 0).any(-1) | (xy[..., 0] >= width) | (xy[..., 1] >= height)
    if outside.any():
        x, y = xy[outside][0]
        raise PromptError(
            f"points with 0 <= x < {width} and 0 <= y < {height}",
            f"({x:g}, {y:g})" + (f" and {outside.sum() - 1} more outside" if outside.sum() > 1 else ""),
            "coordinates are pixels (x, y) of the image as set",
        )
    return xy, marks


def validate_box(box: npt.ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Box (4,) or boxes (P, 4), xyxy, as a float32 array of the same shape.

    Raises `PromptError` for other shapes, NaN, a box that is empty or reversed, or one that leaves the image.
    """
    xyxy = _shaped_box(box)
    if xyxy.size == 0:
        raise PromptError("at least one box", f"shape {xyxy.shape}")
    height, width = image_hw
    low, high = xyxy[..., :2], xyxy[..., 2:]
    reversed_ = np.asarray((low >= high).any(-1))
    if reversed_.any():
        raise PromptError(
            "a box (x0, y0, x1, y1) with x0 < x1 and y0 < y1",
            _row(xyxy, reversed_),
            "give the upper left corner first; a single point is a point prompt",
        )
    outside = np.asarray((low < 0).any(-1) | (high > np.array([width, height])).any(-1))
    if outside.any():
        raise PromptError(
            f"a box within the image's {width} x {height} pixels", _row(xyxy, outside), "clip it to the image"
        )
    return xyxy


def validate_mask_input(mask_input: npt.ArrayLike, low_res_hw: tuple[int, int] = (256, 256)) -> FloatArray:
    """Low-resolution logits of an earlier prediction, (h, w), (1, h, w) or (P, 1, h, w), as a float32 array.

    `low_res_hw` is the size the model gives, a quarter of its input size. Raises `PromptError` for another
    size or NaN.
    """
    try:
        logits = np.asarray(mask_input, np.float32)
    except (TypeError, ValueError) as cause:
        raise PromptError("mask_input as an array of logits", str(cause)) from cause
    height, width = low_res_hw
    channels = logits.shape[-3] if logits.ndim > 2 else 1
    if logits.ndim not in (2, 3, 4) or logits.shape[-2:] != (height, width) or channels != 1 or not logits.size:
        raise PromptError(
            f"mask_input of shape ({height}, {width}), (1, {height}, {width}) or (P, 1, {height}, {width})",
            f"{logits.shape}",
            "pass one of the low-resolution logits that predict() gave, not a mask of the image's size",
        )
    if not np.isfinite(logits).all():
        raise PromptError("finite mask_input logits", "NaN or infinity")
    return logits


def _shaped_points(points: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    try:
        xy, marks = np.asarray(points, np.float32), np.asarray(labels, np.float64)
    except (TypeError, ValueError) as cause:
        raise PromptError("points as numbers (K, 2) with labels (K,)", str(cause)) from cause
    if xy.ndim not in (2, 3) or xy.shape[-1] != 2:
        raise PromptError("points of shape (K, 2) or (P, K, 2)", f"shape {xy.shape}", "give (x, y) for each point")
    if marks.shape != xy.shape[:-1]:
        raise PromptError(
            f"a label for each point, shape {xy.shape[:-1]}", f"{marks.shape}", "1 is object, 0 is background"
        )
    if not np.isfinite(xy).all():
        raise PromptError("finite coordinates", "NaN or infinity")
    wrong = ~np.isin(marks, (0, 1))
    if wrong.any():
        raise PromptError("labels 0 (background) and 1 (object)", f"{marks[wrong][0]:g}")
    return xy, marks.astype(np.int32)


def _shaped_box(box: npt.ArrayLike) -> FloatArray:
    try:
        xyxy = np.asarray(box, np.float32)
    except (TypeError, ValueError) as cause:
        raise PromptError("a box as numbers (4,)", str(cause)) from cause
    if xyxy.ndim not in (1, 2) or xyxy.shape[-1] != 4:
        raise PromptError("a box of shape (4,) or (P, 4)", f"shape {xyxy.shape}", "give x0, y0, x1, y1")
    if not np.isfinite(xyxy).all():
        raise PromptError("finite coordinates", "NaN or infinity")
    return xyxy


def _row(xyxy: FloatArray, wrong: npt.NDArray[np.bool_]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in xyxy[wrong].reshape(-1, 4)[0]) + ")"


def _object_mask(mask: npt.ArrayLike) -> BoolMask:
    checked = as_mask(mask, PromptError)
    if not checked.any():
        raise PromptError("a mask with at least one pixel", "an empty one", "leave such objects out")
    return checked


def _crop(mask: BoolMask, margin: int) -> tuple[BoolMask, tuple[int, int]]:
    """The part of a non-empty mask that holds its pixels and `margin` more, with the offset (x0, y0) of the
    part."""
    x0, y0, x1, y1 = (int(v) for v in mask_box(mask))
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    return mask[top : y1 + margin, left : x1 + margin], (left, top)
