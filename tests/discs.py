"""Pictures of many small discs, with a mask of each."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

HW = (480, 640)
RADIUS = 9


def discs(seed: int = 0, radius: int = RADIUS) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A picture (480, 640, 3) of 24 bright discs, and their masks (24, H, W)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 50, (*HW, 3), dtype=np.uint8)
    masks = []
    for number in range(24):
        row, column = divmod(number, 6)
        mask = np.zeros(HW, np.uint8)
        x, y = rng.integers(-12, 13, 2) if seed else (0, 0)
        cv2.circle(mask, (55 + 106 * column + int(x), 60 + 120 * row + int(y)), radius, 1, -1)
        image[mask > 0] = (230, 190 - 5 * number, 40 + 6 * number)
        masks.append(mask > 0)
    return image, np.stack(masks)
