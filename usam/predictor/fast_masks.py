"""Masks from tokens that are already there: the decoder's upscaling, rearranged, whole or at sampled pixels.

Shapes: P prompts, M masks per prompt, D token width, E side of the image embedding, N = E * E cells,
C1 = D / 4 and C2 = D / 8 channels of the two upscaling steps, h, w = 4 E low-resolution masks. A mask's weights (C2,)
say what its token makes of the channels of a pixel.

SAM 2 turns each cell into 4 x 4 pixels by two transposed convolutions whose kernels do not overlap. A pixel
therefore depends on one cell: the steps are matrix products over cells, with channels innermost, and any
subset of pixels can be made by itself. One pixel per cell costs an eighth of a mask and is enough to see
which masks are near-copies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from usam.checkpoints.smooth_decoder import smooth_logits


class MaskPath:
    """Makes masks of one image from image tokens (P, N, D) and the masks' weights (P, M, C2), up to rounding."""

    def __init__(self, decoder: Any, high_res: list[Tensor]) -> None:
        """`high_res`: the image's (1, C2, h, w) and (1, C1, h / 2, w / 2) features, or [] for models without."""
        self._decoder = decoder
        self._first, self._norm, self._first_act, self._second, self._second_act = decoder.output_upscaling
        self._first_matrix, self._second_matrix = _matrices(self._first), _matrices(self._second)
        self._coarse, self._fine = self._first.bias.expand(1, 4, -1), self._second.bias.expand(1, 4, 4, -1)
        if decoder.use_high_res_features:
            fine, coarse = high_res
            self._coarse = self._coarse + _by_cell(coarse, 2)
            self._fine = self._fine + _by_cell(fine, 4).view(-1, 4, 4, fine.shape[1])
        self._sample: _Sample | None = None

    def weights(self, mask_tokens: Tensor, outputs: tuple[int, ...]) -> Tensor:
        """(P, M, C2) for the decoder's outputs `outputs`, from mask tokens (P, 4, D)."""
        networks = self._decoder.output_hypernetworks_mlps
        return torch.stack([networks[output](mask_tokens[:, output]) for output in outputs], dim=1)

    def whole(self, image_tokens: Tensor, weights: Tensor) -> Tensor:
        """Logits (P, M, h, w)."""
        prompts, cells, _ = image_tokens.shape
        x = (image_tokens @ self._first_matrix.flatten(1)).view(prompts, cells, 4, -1) + self._coarse
        x = self._first_act(self._normed(x))
        x = (x @ self._second_matrix.flatten(1)).view(prompts, cells, 4, 4, -1) + self._fine
        logits = weights @ self._second_act(x).flatten(1, 3).transpose(1, 2)
        side = int(cells**0.5)
        order = _pixel_order(side, logits.device).expand(*logits.shape[:2], -1)
        pixels = logits.gather(2, order).view(*logits.shape[:2], 4 * side, 4 * side)
        return smooth_logits(pixels, getattr(self._decoder, "mask_smoothing", 0.0))

    def sampled(self, image_tokens: Tensor, weights: Tensor) -> Tensor:
        """Logits (P, M, E, E): of each 4 x 4 pixels of `whole` one.

        E has to be a multiple of 4.
        """
        side = int(image_tokens.shape[1] ** 0.5)
        sample = self._sample or _Sample(side, self._coarse, self._fine, image_tokens.device)
        self._sample = sample
        x = _by_place(image_tokens[:, sample.order], self._first_matrix) + sample.coarse
        x = self._first_act(self._normed(x))
        x = _by_place(x.reshape(len(x) * 4, -1, x.shape[2]), self._second_matrix).view(*x.shape[:2], -1)
        logits = weights @ self._second_act(x + sample.fine).transpose(1, 2)
        pixels: Tensor = logits[..., sample.back].view(*logits.shape[:2], side, side)
        return pixels

    def _normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps)


@lru_cache(maxsize=4)
def _pixel_order(side: int, device: torch.device) -> Tensor:
    """(16 N,) where each pixel of a mask, row by row, lies in what the steps make. To gather by it takes a sixth of the
    time that reordering the axes does."""
    with torch.inference_mode(False):  # kept for training too
        places = torch.arange(16 * side * side, device=device).view(side, side, 2, 2, 2, 2)
        return places.permute(0, 2, 4, 1, 3, 5).flatten()


def _places(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of four places each cell (N,) is sampled at, in the first step and within that in the second.

    Neighbouring cells are sampled at different places, so that a pattern that repeats from cell to cell, as
    transposed convolutions leave it, does not bias the sample.
    """
    y, x = torch.meshgrid(*(2 * (torch.arange(side, device=device),)), indexing="ij")
    return (2 * (y % 2) + x % 2).flatten(), (2 * (y // 2 % 2) + x // 2 % 2).flatten()


class _Sample:
    """Cells in the order of the places they are sampled at, with what is added there."""

    def __init__(self, side: int, coarse: Tensor, fine: Tensor, device: torch.device) -> None:
        first, second = _places(side, device)
        self.order = torch.argsort(4 * first + second, stable=True)
        self.back = torch.argsort(self.order)
        first, second = first[self.order], second[self.order]
        cells = self.order if len(coarse) > 1 else torch.zeros_like(self.order)
        self.coarse, self.fine = coarse[cells, first], fine[cells, first, second]


def _by_place(x: Tensor, matrices: Tensor) -> Tensor:
    """(P, n, in) in four equal parts along n, each times its own matrix of (in, 4, out): (P, n, out)."""
    parts = torch.chunk(x, 4, dim=1)
    return torch.cat([part @ matrices[:, place] for place, part in enumerate(parts)], dim=1)


def _matrices(convolution: Any) -> Tensor:
    """A transposed 2 x 2 convolution's weights at each of its four places, (in, 4, out)."""
    weight: Tensor = convolution.weight.flatten(2).permute(0, 2, 1).contiguous()
    return weight


def _by_cell(features: Tensor, scale: int) -> Tensor:
    """(1, C, scale * E, scale * E) to (N, scale * scale, C); pixels in the order in which the steps make them."""
    _, channels, height, width = features.shape
    rows, columns = height // scale, width // scale
    if scale == 2:
        blocks = features.view(channels, rows, 2, columns, 2).permute(1, 3, 2, 4, 0)
    else:
        blocks = features.view(channels, rows, 2, 2, columns, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
    return blocks.reshape(rows * columns, scale * scale, channels)
