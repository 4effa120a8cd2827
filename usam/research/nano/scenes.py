"""A training picture, photographed or made up.

Legend: S side in pixels, m = S / 4 the side of a target mask, N masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

SMALLEST_AREA = 0.0015
"""Objects smaller than this share of the image or crop are not trained on."""


@dataclass(frozen=True)
class Scene:
    """One training picture: `image` (S, S, 3) uint8, `masks` (N, m, m) float32 coverage in [0, 1].

    `ignored` (m, m) float32 in [0, 1]: the share of each pixel of which nothing is known; None where all is.
    """

    image: ByteArray
    masks: FloatArray
    ignored: FloatArray | None = None

    def target(self, index: int) -> FloatArray:
        """(m, m) coverage of one object, -1 where nothing is known and the object is not."""
        mask: FloatArray = self.masks[index]
        if self.ignored is None:
            return mask
        return np.where((self.ignored > 0.5) & (mask < 0.5), np.float32(-1), mask).astype(np.float32)
