"""Random views of a labelled image: more examples for heads than there are photographs.

Legend: H, W height and width of the image, h, w of the view, in pixels. A view is a crop, perhaps mirrored, under
another light. Heads judge a decoder's own outputs, so that what counts is that these differ, not that they be new
photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usam.research.datasets.record import BoolMask, UInt8Image

SMALLEST_SIDE = 0.45
"""The shortest side of a crop, as a share of the image's."""
GAIN, LIFT, GAMMA = 0.25, 0.12, 0.3
"""How far contrast (a factor), brightness (of 255) and the logarithm of gamma go from the photograph's."""
SEEN = 0.4
"""The share of an object that must lie in the view for it to count as that object."""


@dataclass(frozen=True)
class View:
    """Rows `top` to `top + h` and columns `left` to `left + w`; `table` (256, 3) maps the light of each channel."""

    top: int
    left: int
    hw: tuple[int, int]
    mirrored: bool
    table: npt.NDArray[np.uint8]

    @classmethod
    def draw(cls, image_hw: tuple[int, int], rng: np.random.Generator) -> View:
        """A view of an image of (H, W)."""
        share = rng.uniform(SMALLEST_SIDE, 1.0)
        sides = [max(1, round(side * min(1.0, share * rng.uniform(0.85, 1.18)))) for side in image_hw]
        top, left = (int(rng.integers(whole - side + 1)) for whole, side in zip(image_hw, sides, strict=True))
        level = np.arange(256)[:, None] / 255.0
        gamma = np.exp(rng.uniform(-GAMMA, GAMMA))
        gain = 1.0 + rng.uniform(-GAIN, GAIN) + rng.uniform(-GAIN, GAIN, 3) / 3
        light = (level**gamma - 0.5) * gain + 0.5 + rng.uniform(-LIFT, LIFT)
        table = (light * 255.0).round().clip(0, 255).astype(np.uint8)
        return cls(top, left, (sides[0], sides[1]), bool(rng.random() < 0.5), table)

    def of_image(self, image: UInt8Image) -> UInt8Image:
        """(H, W, 3) to (h, w, 3)."""
        part = self._part(image)
        return np.ascontiguousarray(np.stack([self.table[part[..., c], c] for c in range(3)], axis=-1))

    def of_mask(self, mask: BoolMask) -> BoolMask:
        """(H, W) to (h, w); empty where less than `SEEN` of the object lies in the view."""
        part = np.ascontiguousarray(self._part(mask))
        return part if part.sum() >= SEEN * mask.sum() else np.zeros_like(part)

    def _part(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        part = array[self.top : self.top + self.hw[0], self.left : self.left + self.hw[1]]
        return part[:, ::-1] if self.mirrored else part
