"""SAM 2's mask decoder with its masks smoothed: for models that learnt from few pictures.

Legend: P prompts, M masks of a prompt, h, w sides of the low-resolution masks in pixels.

Two transposed convolutions make 4 x 4 pixels of each cell of the embedding, each cell for itself; with little to learn
from, their seams stay visible as a fringe along a mask's edge. A Gaussian narrower than a pixel takes the fringe off.
`MaskPath` does the same to the masks it makes.
"""

from __future__ import annotations

from typing import Any

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor
from torch.nn import functional as F


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
    """Logits (P, M, h, w) smoothed by a Gaussian of `sigma` pixels, the edge continued outwards; 0 leaves them."""
    if sigma <= 0 or not logits.numel():
        return logits
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=logits.device, dtype=logits.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(logits.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    smoothed = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return smoothed.view(logits.shape)
