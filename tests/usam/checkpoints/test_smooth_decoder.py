"""Smoothing takes the fringe off a mask and leaves what it is of."""

from __future__ import annotations

import pytest
import torch

from usam.checkpoints.nano import build_nano
from usam.checkpoints.smooth_decoder import SmoothMaskDecoder, smooth_logits


def test_a_flat_mask_stays_and_a_lone_pixel_goes() -> None:
    flat = torch.full((2, 3, 9, 9), 4.0)
    assert torch.allclose(smooth_logits(flat, 0.7), flat)
    flat[0, 0, 4, 4] = -4.0
    assert (smooth_logits(flat, 0.7)[0, 0] > 0).all(), "a hole of one pixel is none"
    assert smooth_logits(flat, 0.0) is flat
    assert smooth_logits(flat[:0], 0.7).shape == (0, 3, 9, 9)


def test_it_is_the_gaussian_along_both_axes() -> None:
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 1.0
    seen = smooth_logits(point, 0.7)[0, 0]
    assert float(seen.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(seen[3, 4] / seen[3, 3]) == pytest.approx(float(torch.exp(torch.tensor(-0.5 / 0.49))), rel=1e-4)
    assert torch.allclose(seen, seen.T)


def test_the_edge_goes_on_outwards_on_maps_of_any_shape() -> None:
    from scipy.ndimage import gaussian_filter

    logits = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    wanted = gaussian_filter(logits.numpy(), 0.7, mode="nearest", radius=2, axes=(2, 3))
    assert torch.allclose(smooth_logits(logits, 0.7), torch.from_numpy(wanted), atol=1e-6)


def test_what_was_smoothed_to_be_looked_at_is_smoothed_to_be_trained() -> None:
    with torch.inference_mode():
        smooth_logits(torch.randn(1, 1, 11, 11), 0.9)
    logits = torch.randn(1, 1, 11, 11, requires_grad=True)
    smooth_logits(logits, 0.9).sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.sum()) == pytest.approx(121.0, rel=1e-5)


def test_the_family_smooths_and_says_so() -> None:
    decoder = build_nano("nano-s").sam_mask_decoder
    assert isinstance(decoder, SmoothMaskDecoder)
    assert decoder.mask_smoothing > 0
