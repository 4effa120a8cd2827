"""SAM 2's mask decoder with its masks smoothed: for models that learnt from few pictures.

Legend: P prompts, M masks of a prompt, h, w sides of the low-resolution masks in pixels.

Two transposed convolutions make 4 x 4 pixels of each cell of the embedding, each cell for itself; with little to learn
from, their seams stay visible as a fringe along a mask's edge. A Gaussian narrower than a pixel takes the fringe off.
`MaskPath` does the same to the masks it makes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor


class SmoothMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """A `MaskDecoder` whose masks are smoothed with `mask_smoothing`; everything else is as it was."""

    mask_smoothing = 0.7
    """Standard deviation in low-resolution pixels, chosen on pictures that neither weights nor figures know."""

    def predict_masks(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As SAM 2's: logits (P, M, h, w) and what comes with them."""
        logits, *rest = MaskDecoder.predict_masks(
            self, *arguments, **named
        )  # self may be an override of its attributes
        return (smooth_logits(logits, self.mask_smoothing), *rest)


def smooth_logits(logits: Tensor, sigma: float) -> Tensor:
    """Logits (P, M, h, w) smoothed by a Gaussian of `sigma` pixels, the edge continued outwards; 0 leaves them.

    Two products with banded matrices: on small maps a third of the time of two convolutions.
    """
    if sigma <= 0 or not logits.numel():
        return logits
    down, across = (_smoothing(side, sigma, logits.device, logits.dtype) for side in logits.shape[-2:])
    return down @ logits @ across.T


@lru_cache(maxsize=8)
def _smoothing(side: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(side, side): row i holds the weights by which the values of a line make its i-th."""
    with torch.inference_mode(False):  # kept for training too
        reach = max(1, round(3 * sigma))
        offsets = torch.arange(-reach, reach + 1)
        weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
        places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
        matrix = torch.zeros(side, side, dtype=torch.float64)
        matrix.scatter_add_(1, places, (weights / weights.sum()).expand(side, -1))
        return matrix.to(device, dtype)
