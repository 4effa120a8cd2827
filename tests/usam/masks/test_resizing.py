"""Resizing against torch's interpolation, which SAM 2 uses, and by its own rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usam.errors import MaskError
from usam.masks import resize_logits, resize_mask


@pytest.mark.parametrize("image_hw", [(256, 256), (480, 640), (97, 301), (64, 64)])
def test_logits_are_enlarged_as_sam_2_enlarges_them(image_hw: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(0, 8, (2, 3, 64, 64)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits), image_hw, mode="bilinear", align_corners=False)
    resized = resize_logits(logits, image_hw)
    assert resized.dtype == np.float32
    assert resized.shape == expected.shape
    assert np.abs(resized - expected.numpy()).max() < 1e-3


def test_a_single_plane_and_a_single_pixel() -> None:
    assert resize_logits(np.full((1, 1), 3.0), (2, 3)).tolist() == [[3, 3, 3], [3, 3, 3]]
    assert resize_logits(np.zeros((0, 4, 4)), (8, 8)).shape == (0, 8, 8)


def test_masks_are_enlarged_to_blocks() -> None:
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    assert (resize_mask(mask, (15, 28)) == np.kron(mask, np.ones((3, 4), bool))).all()


def test_masks_shrink_to_what_is_at_least_half_covered() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:2, :2], mask[0, 2:4], mask[0, 4] = True, True, True
    assert resize_mask(mask, (2, 4)).tolist() == [[True, True, False, False], [False] * 4]


def test_area_survives_a_round_trip() -> None:
    y, x = np.mgrid[:200, :300]
    mask = np.hypot(x - 150, y - 100) < 60
    small = resize_mask(mask, (100, 150))
    assert small.mean() == pytest.approx(mask.mean(), rel=0.02)
    assert resize_mask(small, (200, 300)).mean() == pytest.approx(mask.mean(), rel=0.02)


def test_the_same_size_is_a_copy() -> None:
    mask = np.eye(4, dtype=bool)
    resized = resize_mask(mask, (4, 4))
    assert (resized == mask).all()
    assert not np.shares_memory(resized, mask)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: resize_logits(np.zeros(4), (8, 8)), "logits"),
        (lambda: resize_logits(np.zeros((4, 0)), (8, 8)), "at least 1 x 1"),
        (lambda: resize_logits(np.zeros((4, 4)), (0, 8)), "target size"),
        (lambda: resize_mask(np.zeros((4, 4), bool), (8, -1)), "target size"),
        (lambda: resize_mask(np.zeros((2, 4, 4), bool), (8, 8)), "shape"),
    ],
)
def test_malformed_input_is_named(call, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        call()
