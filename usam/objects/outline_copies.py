"""Copies of a label that are spoiled on purpose, for a project to learn what wrong outlines look like.

COPIES                      # what each is
spoilt_copies(mask, rng)    # all but the label itself
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from usam.masks.overlap import mask_box

BoolMask = npt.NDArray[np.bool_]
MOVES, CUTS = 2, 2
COPIES = ("right", *["moved"] * MOVES, *["cut"] * CUTS)
"""The label, then its spoiled copies: of the cuts the first runs along a side of the picture, as where a window or a
tile ended, the others in any direction."""


def spoilt_copies(mask: BoolMask, rng: np.random.Generator) -> list[BoolMask]:
    """Of a label (H, W), not empty, none of them empty, in the order of `COPIES`."""
    angles = [np.pi / 2 * rng.integers(4), *rng.uniform(0, 2 * np.pi, CUTS - 1)]
    return [*(_moved(mask, rng) for _ in range(MOVES)), *(_cut(mask, float(angle), rng) for angle in angles)]


def _moved(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """The mask moved by 0.15 to 0.45 of its box, most of it still there."""
    left, top, right, bottom = mask_box(mask).astype(int).tolist()
    rows, columns = np.nonzero(mask)
    for _ in range(20):
        length, angle = rng.uniform(0.15, 0.45), rng.uniform(0, 2 * np.pi)
        x = columns + round(length * float(np.cos(angle)) * (right - left))
        y = rows + round(length * float(np.sin(angle)) * (bottom - top))
        inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
        if inside.mean() > 0.3:
            break
    else:
        return mask
    copy = np.zeros_like(mask)
    copy[y[inside], x[inside]] = True
    return copy


def _cut(mask: BoolMask, angle: float, rng: np.random.Generator) -> BoolMask:
    """35 to 65 per cent of the mask, on one side of a line across `angle`, in radians."""
    rows, columns = np.nonzero(mask)
    along = columns * round(np.cos(angle), 9) + rows * round(np.sin(angle), 9)
    kept = along <= np.quantile(along, rng.uniform(0.35, 0.65))
    copy = np.zeros_like(mask)
    copy[rows[kept], columns[kept]] = True
    return copy
