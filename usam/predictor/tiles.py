"""Parts of an image that are looked at one by one, larger than life: a second pass for small objects.

Shapes: K masks, L side of the low-resolution masks, H, W of the image in pixels.

A part is encoded like an image of its own. Its masks are brought into the frame of the whole image at the same
resolution L; what an inner edge of the part cuts off is left to its neighbours, which overlap it by a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usam.errors import PromptError

Floats = npt.NDArray[np.float32]
OVERLAP = 0.25
"""By how much of a tile's share of the image neighbours overlap."""
OUTSIDE = -32.0
"""Logit of what lies outside a tile."""
SMOOTHED = 0.3
"""Blur, in cells of the frame, before a tile's finer masks are read at the frame's cells."""


@dataclass(frozen=True)
class Tile:
    """A part of an image of `hw`: `top`, `left`, `height`, `width` in pixels."""

    top: int
    left: int
    height: int
    width: int
    hw: tuple[int, int]

    def cut(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The part (height, width, 3) of an image (H, W, 3)."""
        return np.ascontiguousarray(image[self.top : self.top + self.height, self.left : self.left + self.width])

    def whole(self, logits: Floats) -> npt.NDArray[np.bool_]:
        """(K,) which masks (K, L, L) of the part touch none of its edges that are not the image's too."""
        inside = logits > 0
        cut = np.zeros(len(logits), bool)
        if self.top > 0:
            cut |= inside[:, 0].any(1)
        if self.left > 0:
            cut |= inside[:, :, 0].any(1)
        if self.top + self.height < self.hw[0]:
            cut |= inside[:, -1].any(1)
        if self.left + self.width < self.hw[1]:
            cut |= inside[:, :, -1].any(1)
        return np.asarray(~cut)

    def into_frame(self, logits: Floats) -> Floats:
        """Masks (K, L, L) of the part as masks (K, L, L) of the whole image."""
        import cv2

        side = logits.shape[-1]
        framed = np.empty_like(logits)
        shares = np.array([self.width / self.hw[1], self.height / self.hw[0]])
        start = np.array([self.left / self.hw[1], self.top / self.hw[0]]) * side
        move = np.column_stack([np.diag(shares), start + shares / 2 - 0.5])
        sigma = SMOOTHED / shares
        for number, one in enumerate(logits):
            smooth = cv2.GaussianBlur(np.clip(one, OUTSIDE, -OUTSIDE), (0, 0), float(sigma[0]), sigmaY=float(sigma[1]))
            framed[number] = cv2.warpAffine(smooth, move, (side, side), borderValue=OUTSIDE)
        return framed


def tiles_of(hw: tuple[int, int], per_side: int) -> list[Tile]:
    """`per_side` by `per_side` overlapping parts of an image of (H, W), row by row; none for 1, nor where they would be
    smaller than a few pixels.

    Raises `PromptError` for less than one.

    >>> [(tile.top, tile.left) for tile in tiles_of((100, 200), 2)]
    [(0, 0), (0, 75), (38, 0), (38, 75)]
    """
    if per_side < 1:
        raise PromptError("at least one tile a side", str(per_side))
    share = (1 + OVERLAP) / per_side
    height, width = (round(side * share) for side in hw)
    if per_side == 1 or min(height, width) < 16:
        return []
    tops, lefts = (
        [round(step * (whole - part) / (per_side - 1)) for step in range(per_side)]
        for whole, part in zip(hw, (height, width), strict=True)
    )
    return [Tile(top, left, height, width, hw) for top in tops for left in lefts]
