"""A training picture, photographed or made up.

Legend: S side in pixels, m = S / 4 the side of a target mask, N masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

SMALLEST_AREA = 0.003
"""Objects smaller than this share of the image or crop are not trained on."""


@dataclass(frozen=True)
class Scene:
    """One training picture: `image` (S, S, 3) uint8, `masks` (N, m, m) float32 coverage in [0, 1]."""

    image: ByteArray
    masks: FloatArray
