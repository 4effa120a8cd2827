"""Masks kept small until somebody looks at them: bits of a cropped box, or COCO run lengths.

Both are callables that give the (H, W) boolean mask and both can be sent to another process.
Legend: H, W image height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import DatasetError, MaskError
from usam.research.datasets.record import BoolMask


class MalformedMask(MaskError):
    """A mask of a data set that cannot be used; `kind` is what `Problems` counts it under."""

    def __init__(self, kind: str, expected: str, got: str) -> None:
        super().__init__(expected, got, "this object is passed over")
        self.kind = kind


@dataclass(frozen=True)
class PackedMask:
    """The bits of a mask inside its bounding box, rows `top:bottom`, columns `left:right`."""

    height: int
    width: int
    top: int
    left: int
    bottom: int
    right: int
    bits: bytes

    @classmethod
    def of(cls, mask: BoolMask) -> PackedMask:
        """Pack a (H, W) boolean mask. Raises `MalformedMask` when it has no pixel set."""
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size == 0:
            raise MalformedMask("empty mask", "a mask with at least one pixel set", "an empty one")
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(mask[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        bits = np.packbits(mask[top:bottom, left:right]).tobytes()
        height, width = mask.shape
        return cls(height, width, top, left, bottom, right, bits)

    def __call__(self) -> BoolMask:
        shape = (self.bottom - self.top, self.right - self.left)
        inside = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=shape[0] * shape[1])
        mask = np.zeros((self.height, self.width), np.bool_)
        mask[self.top : self.bottom, self.left : self.right] = inside.reshape(shape)
        return mask


@dataclass(frozen=True)
class RunLengthMask:
    """A mask as COCO's run lengths: column by column, background first, each run a little-endian uint32."""

    height: int
    width: int
    runs: bytes

    @classmethod
    def of(cls, runs: list[int], height: int, width: int) -> RunLengthMask:
        """From run lengths. Raises `MalformedMask` unless they fill the image and some of it is object."""
        if any(run < 0 for run in runs) or sum(runs) != height * width:
            raise MalformedMask("bad run lengths", f"runs that fill {height * width} pixels", f"{sum(runs)}")
        if sum(runs[1::2]) == 0:
            raise MalformedMask("empty mask", "a mask with at least one pixel set", "an empty one")
        return cls(height, width, np.array(runs, "<u4").tobytes())

    def __call__(self) -> BoolMask:
        runs = np.frombuffer(self.runs, "<u4")
        is_object = np.arange(len(runs)) % 2 == 1
        return np.ascontiguousarray(np.repeat(is_object, runs).reshape(self.width, self.height).T)


def from_run_lengths(rle: Any, height: int, width: int) -> RunLengthMask:
    """Check COCO run lengths, plain (list) or compressed (text).

    Raises `MalformedMask` when they are of another size than (height, width), malformed, or
    empty. Nothing is decoded before the runs are known to fill the image exactly.
    """
    if not isinstance(rle, dict) or "counts" not in rle or "size" not in rle:
        raise MalformedMask("bad run lengths", "run lengths with 'size' and 'counts'", type(rle).__name__)
    try:
        size = [int(side) for side in rle["size"]]
        counts = rle["counts"]
        if not isinstance(counts, list):
            counts = _uncompressed(counts.encode() if isinstance(counts, str) else bytes(counts))
        runs = [int(run) for run in counts]
    except (TypeError, ValueError) as error:
        raise MalformedMask("bad run lengths", "run lengths of whole numbers", str(error)) from error
    if size != [height, width]:
        got = " x ".join(map(str, size))
        raise MalformedMask("mask of another size", f"a mask of {height} x {width}", got)
    return RunLengthMask.of(runs, height, width)


def from_polygons(polygons: Any, height: int, width: int) -> RunLengthMask:
    """Fill COCO polygons (each a flat list x0, y0, x1, y1, ... in pixels) and join them.

    Raises `MalformedMask` when one has under three points, or a coordinate that is no number or lies more
    than an image's side outside the image, or when no pixel is filled.
    """
    if not isinstance(polygons, list) or not polygons:
        raise MalformedMask("bad polygon", "a list of polygons", f"{polygons!r:.40}")
    for polygon in polygons:
        _check_polygon(polygon, height, width)
    coco = _pycocotools()
    rle = coco.merge(coco.frPyObjects(polygons, height, width))
    return RunLengthMask.of(_uncompressed(bytes(rle["counts"])), height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    try:
        points: npt.NDArray[np.float64] = np.asarray(polygon, np.float64)
    except (TypeError, ValueError) as error:
        raise MalformedMask("bad polygon", "numbers in a polygon", str(error)) from error
    if points.ndim != 1 or points.size < 6 or points.size % 2:
        raise MalformedMask("bad polygon", "three points or more, x and y each", f"shape {points.shape}")
    x, y = points[0::2], points[1::2]
    inside = np.isfinite(points).all() and x.min() >= -width and x.max() <= 2 * width
    if not (inside and y.min() >= -height and y.max() <= 2 * height):
        raise MalformedMask("bad polygon", f"a polygon inside {width} x {height} pixels", "one far outside")


def _uncompressed(text: bytes) -> list[int]:
    """COCO's text code: six bits a character from '0', five of value, one saying that more follow; from the
    fourth run on, the difference to the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        chunk = character - 48
        if not 0 <= chunk < 64 or shift > 35:
            raise MalformedMask("bad run lengths", "COCO's compressed run lengths", f"character {character}")
        value |= (chunk & 31) << shift
        shift += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise MalformedMask("bad run lengths", "COCO's compressed run lengths", "text that breaks off")
    return runs


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DatasetError(
            "pycocotools, which reads COCO's masks", "no such package", "install usam[science]"
        ) from error
    return mask
