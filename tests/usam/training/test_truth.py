"""IoU at the image's own size, against the plain way: enlarge everything with torch, count pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from usam.training.truth import Truth, foreground, ious_on_device


def plain(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    enlarged = F.interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear", align_corners=False)
    return np.asarray(enlarged[0, 0] > 0)


def blob(rng: np.random.Generator, side: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    x, y = rng.uniform(0, side, 2)
    noise = rng.normal(0, 0.3, (side, side))
    return (radius - np.hypot(columns - x, rows - y) + noise).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(480, 640), (97, 131), (64, 64), (33, 400), (20, 15)]),
    st.floats(0.5, 40),
)
def test_the_part_that_is_interpolated_is_all_that_counts(seed: int, size: tuple[int, int], radius: float) -> None:
    logits = blob(np.random.default_rng(seed), 64, radius)
    expected = plain(logits, size)
    part, rows, columns = foreground(logits, size)
    whole = np.zeros(size, np.bool_)
    whole[rows, columns] = part
    assert (whole ^ expected).sum() <= 2e-5 * expected.size + 1


@pytest.mark.parametrize("size", [(480, 640), (61, 47)])
def test_iou_equals_counting_pixels_on_either_way(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    logits = np.stack([[blob(rng, 64, radius) for radius in (3, 9, 25, 60)] for _ in range(5)])
    logits[4, 0] = -1
    truths = np.stack([plain(blob(rng, 64, 15), size) for _ in range(5)])
    truths[:, 5:9, 5:9] = True
    expected = np.zeros((5, 4))
    for row in range(5):
        for column in range(4):
            predicted = plain(logits[row, column], size)
            expected[row, column] = (predicted & truths[row]).sum() / (predicted | truths[row]).sum()
    cropped = np.stack([Truth(truth).ious(each) for truth, each in zip(truths, logits, strict=True)])
    at_once = ious_on_device(torch.from_numpy(logits), torch.from_numpy(truths))
    np.testing.assert_allclose(cropped, expected, atol=1e-3)
    np.testing.assert_allclose(at_once, expected, atol=1e-6)
    assert cropped[4, 0] == 0


def test_area_is_a_share_of_the_image() -> None:
    mask = np.zeros((10, 20), np.bool_)
    mask[:5, :4] = True
    assert Truth(mask).area == pytest.approx(0.1)
