"""Low-resolution masks in few bytes, from which a mask of any size can be made later.

A decoder's mask is a small map of logits. Of each, only the box around the object is kept, in 8 bits a value, finest
near 0, where the outline runs; a mask made of it differs from the first by less than its own outline is sure.

Shapes: K masks, L side of the low-resolution masks.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import MaskError

Floats = npt.NDArray[np.float32]
LARGEST = 32.0
"""Logits beyond are cut off, as `mask_input` wants them."""
STEPS = 127
MARGIN = 2
"""Cells around an object's box that are kept too: its outline runs between cells."""


@dataclass(frozen=True, eq=False)
class PackedLogits:
    """K masks. `side` L; `boxes` (K, 4) rows and columns y0, x0, y1, x1 of what is kept; `parts` K byte strings."""

    side: int
    boxes: npt.NDArray[np.int16]
    parts: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.parts)

    @classmethod
    def of(cls, logits: Floats) -> PackedLogits:
        """From (K, L, L), above 0 = object. Raises `MaskError` for another shape.

        >>> logits = np.full((1, 64, 64), -9.0, np.float32)
        >>> logits[0, 20:40, 10:30] = 4.0
        >>> packed = PackedLogits.of(logits)
        >>> bool(((packed.logits([0]) > 0) == (logits > 0)).all()), len(packed.parts[0]) < 100
        (True, True)
        """
        if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
            raise MaskError("logits (K, L, L)", f"shape {logits.shape}", "pass the decoder's low-resolution masks")
        side = logits.shape[1]
        boxes = np.zeros((len(logits), 4), np.int16)
        parts = []
        for k, values in enumerate(logits):
            inside = values > 0
            ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            if len(ys):
                low = np.maximum([ys[0] - MARGIN, xs[0] - MARGIN], 0)
                high = np.minimum([ys[-1] + 1 + MARGIN, xs[-1] + 1 + MARGIN], side)
                boxes[k] = (*low, *high)
            y0, x0, y1, x1 = boxes[k].tolist()
            parts.append(zlib.compress(_small(values[y0:y1, x0:x1]).tobytes(), 1))
        return cls(side, boxes, tuple(parts))

    def logits(self, rows: Sequence[int]) -> Floats:
        """(len(rows), L, L) of some of the masks; what lies far outside an object is as unlike it as can be.

        Raises `MaskError` where the bytes are damaged.
        """
        made = np.full((len(rows), self.side, self.side), -LARGEST, np.float32)
        for place, row in enumerate(rows):
            y0, x0, y1, x1 = self.boxes[row].tolist()
            try:
                values = np.frombuffer(zlib.decompress(self.parts[row]), np.int8).reshape(y1 - y0, x1 - x0)
            except (zlib.error, ValueError) as error:
                raise MaskError("a mask as it was packed", str(error), "make it again") from error
            made[place, y0:y1, x0:x1] = _large(values)
        return made

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """As arrays to be stored, their names beginning with `prefix`."""
        ends = np.cumsum([len(part) for part in self.parts]).astype(np.int64)
        return {
            f"{prefix}side": np.array([self.side], np.int64),
            f"{prefix}boxes": self.boxes,
            f"{prefix}ends": ends,
            f"{prefix}bytes": np.frombuffer(b"".join(self.parts), np.uint8),
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[Any]], prefix: str) -> PackedLogits:
        """What `arrays` gave. Raises `KeyError` where one is missing."""
        data, ends = arrays[f"{prefix}bytes"].tobytes(), [0, *arrays[f"{prefix}ends"].tolist()]
        parts = tuple(data[start:end] for start, end in itertools.pairwise(ends))
        return cls(int(arrays[f"{prefix}side"][0]), arrays[f"{prefix}boxes"], parts)


def rounded(logits: Floats) -> Floats:
    """Logits (..., L, L) as they are once packed: masks made of them are those made of packed ones."""
    return _large(_small(logits))


def _small(values: Floats) -> npt.NDArray[np.int8]:
    """Logits in 8 bits, by their logarithm; what is above 0 stays above."""
    share = np.log1p(np.minimum(np.abs(values), LARGEST)) / np.log1p(LARGEST)
    steps = np.rint(share * STEPS)
    return np.where(values > 0, np.maximum(steps, 1), -steps).astype(np.int8)


def _large(steps: npt.NDArray[np.int8]) -> Floats:
    values = np.expm1(np.abs(steps.astype(np.float32)) / STEPS * np.float32(np.log1p(LARGEST)))
    return np.asarray(np.where(steps > 0, values, -values), np.float32)
