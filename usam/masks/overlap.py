"""How much masks and boxes cover each other, and which of several near-copies to keep.

Legend: N masks or boxes; H, W height and width in pixels. A box is (x0, y0, x1, y1) along pixel edges, x1 and
y1 exclusive: `mask[y0:y1, x0:x1]` holds the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from usam.errors import MaskError, UsamError

BoolMask: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Words: TypeAlias = npt.NDArray[np.uint64]

_HAS_BIT_COUNT = hasattr(np, "bitwise_count")
_BYTE_COUNTS = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def as_mask(mask: npt.ArrayLike, error: type[UsamError] = MaskError) -> BoolMask:
    """(H, W) bool from booleans, integers (any value but 0 is foreground) or floats that are all 0 or 1, as
    SAM 2 gives them; else raises `error`."""
    array = np.asarray(mask)
    if array.ndim != 2 or 0 in array.shape:
        raise error("a mask (H, W) of at least 1 x 1", f"shape {array.shape}")
    return _booleans(array, error)


def mask_box(mask: npt.ArrayLike) -> FloatArray:
    """(4,) xyxy in pixels around the foreground of `mask` (H, W); all zero for an empty mask."""
    checked = as_mask(mask)
    rows = np.flatnonzero(checked.any(axis=1))
    if len(rows) == 0:
        return np.zeros(4, np.float32)
    columns = np.flatnonzero(checked[rows[0] : rows[-1] + 1].any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union of masks (..., H, W), broadcast over the leading axes; 0..1, higher = more
    alike.

    Two empty masks count as equal: 1. Raises `MaskError` for masks of different sizes.
    """
    first, second = _foreground(a), _foreground(b)
    if first.shape[-2:] != second.shape[-2:]:
        raise MaskError(f"masks of one size, {first.shape[-2:]}", f"{second.shape[-2:]}", "resize one of them")
    intersection = np.count_nonzero(first & second, axis=(-2, -1))
    union = np.count_nonzero(first | second, axis=(-2, -1))
    return np.asarray(_ratio(np.asarray(intersection), np.asarray(union)))


def pairwise_iou(masks: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N, N) IoU of every two of the masks (N, H, W); two empty ones count as equal.

    Counted exactly, on bits: memory is an eighth of the masks', and pairs whose boxes are apart cost nothing.
    """
    stack = _stack(masks)
    bits = _Packed(stack)
    result = np.eye(len(stack))
    for row in range(len(stack) - 1):
        others = np.arange(row + 1, len(stack))
        result[row, others] = result[others, row] = bits.iou(row, others)
    return result


def nms(masks: npt.ArrayLike, scores: npt.ArrayLike, threshold: float = 0.7) -> npt.NDArray[np.int64]:
    """Indices of the masks (N, H, W) kept by greedy non-maximum suppression, best score first.

    A mask is dropped when its IoU with a kept one is above `threshold` (0..1). Of equal scores the earlier
    mask goes first. Raises `MaskError` for a number of scores other than N, or NaN.
    """
    stack = _stack(masks)
    bits = _Packed(stack)
    return _greedy(_scores(scores, len(stack)), bits.iou, threshold)


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N, K) IoU of boxes a (N, 4) and b (K, 4), xyxy; boxes without area overlap nothing."""
    return paired_iou(_boxes(a)[:, None], _boxes(b)[None])


def paired_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(...) IoU of each of boxes a (..., 4) with the box of b (..., 4) in its place; 0 for one without area or place.

    >>> paired_iou([(0, 0, 4, 4)], [(2, 0, 6, 4)]).round(3).tolist()
    [0.333]
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = np.clip(sides, 0, None).prod(-1)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    overlap: npt.NDArray[np.float64] = np.zeros_like(intersection)
    np.divide(intersection, union, out=overlap, where=union > 0)
    return overlap


def box_nms(boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float = 0.7) -> npt.NDArray[np.int64]:
    """Like `nms`, on boxes (N, 4) xyxy."""
    array = _boxes(boxes)
    return _greedy(
        _scores(scores, len(array)),
        lambda row, others: box_iou(array[row : row + 1], array[others])[0],
        threshold,
    )


class _Packed:
    """N masks as rows of 64-bit words, with areas and boxes."""

    def __init__(self, stack: BoolMask) -> None:
        flat = stack.reshape(len(stack), stack.shape[1] * stack.shape[2])
        packed = np.packbits(flat, axis=1)
        padded = np.zeros((len(stack), -(-packed.shape[1] // 8) * 8), np.uint8)
        padded[:, : packed.shape[1]] = packed
        self.words: Words = padded.view(np.uint64)
        self.areas = np.count_nonzero(flat, axis=1).astype(np.int64)
        self.boxes = np.array([mask_box(mask) for mask in stack]).reshape(-1, 4)
        self.width = stack.shape[2]

    def iou(self, row: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        box, boxes = self.boxes[row], self.boxes[others]
        near = np.flatnonzero((boxes[:, :2] < box[2:]).all(1) & (boxes[:, 2:] > box[:2]).all(1))
        first, last = int(box[1]) * self.width // 64, -(-int(box[3]) * self.width // 64)
        both = self.words[others[near], first:last] & self.words[row, first:last]
        intersection = np.zeros(len(others), np.int64)
        intersection[near] = _count_bits(both)
        return _ratio(intersection, self.areas[row] + self.areas[others] - intersection)


def _count_bits(words: Words) -> npt.NDArray[np.int64]:
    counts = np.bitwise_count(words) if _HAS_BIT_COUNT else _BYTE_COUNTS[words.view(np.uint8)]
    return np.asarray(counts.sum(axis=1, dtype=np.int64))


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.ones(whole.shape), where=whole > 0)


def _greedy(
    scores: npt.NDArray[np.float64],
    overlap: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    threshold: float,
) -> npt.NDArray[np.int64]:
    remaining = np.argsort(-scores, kind="stable")
    kept = []
    while len(remaining):
        best, remaining = int(remaining[0]), remaining[1:]
        kept.append(best)
        remaining = remaining[overlap(best, remaining) <= threshold]
    return np.array(kept, np.int64)


def _booleans(array: npt.NDArray[np.generic], error: type[UsamError] = MaskError) -> BoolMask:
    if array.dtype == np.bool_:
        return np.asarray(array, np.bool_)
    if not np.issubdtype(array.dtype, np.number):
        raise error("a mask of numbers", f"{array.dtype}")
    foreground: BoolMask = array != 0
    if np.issubdtype(array.dtype, np.inexact) and not (array == foreground).all():
        raise error("a mask of 0 and 1", f"other {array.dtype} values", "compare logits with 0 first")
    return foreground


def _foreground(masks: npt.ArrayLike) -> BoolMask:
    array = np.asarray(masks)
    if array.ndim < 2:
        raise MaskError("masks (..., H, W)", f"shape {array.shape}")
    return _booleans(array)


def _stack(masks: npt.ArrayLike) -> BoolMask:
    stack = _foreground(masks)
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise MaskError("masks (N, H, W) of at least 1 x 1", f"shape {stack.shape}")
    return stack


def _boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise MaskError("finite boxes (N, 4)", f"shape {array.shape}")
    return array


def _scores(scores: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    array = np.asarray(scores, np.float64)
    if array.shape != (count,) or np.isnan(array).any():
        raise MaskError(f"{count} scores, none NaN", f"shape {array.shape}")
    return array
