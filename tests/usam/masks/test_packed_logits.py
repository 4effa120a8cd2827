"""Masks that are kept in few bytes come back as they were, up to a sliver of outline."""

import numpy as np
import pytest

from usam.errors import MaskError
from usam.masks import iou, resize_logits
from usam.masks.packed_logits import PackedLogits, rounded


def _blobs(count: int, side: int = 112) -> np.ndarray:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    logits = []
    for _ in range(count):
        cy, cx = rng.uniform(0, side, 2)
        ry, rx = rng.uniform(4, side / 2, 2)
        logits.append(12 * (1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2) + rng.normal(0, 0.3, (side, side)))
    return np.array(logits, np.float32)


def test_masks_come_back_at_the_images_size() -> None:
    logits = _blobs(12)
    packed = PackedLogits.of(logits)
    back = packed.logits(range(12))
    for before, after in zip(logits, back, strict=True):
        large = [resize_logits(one, (700, 1000)) > 0 for one in (before, after)]
        assert iou(large[0], large[1]) > 0.995
    assert sum(map(len, packed.parts)) < logits.astype(np.float16).nbytes / 3


def test_the_sign_of_every_cell_is_kept() -> None:
    logits = np.array([[[1e-6, -1e-6], [40.0, -40.0]]], np.float32)
    assert (PackedLogits.of(logits).logits([0]) > 0).tolist() == [[[True, False], [True, False]]]


def test_an_empty_mask_stays_empty() -> None:
    packed = PackedLogits.of(np.full((1, 16, 16), -3.0, np.float32))
    assert not (packed.logits([0]) > 0).any()
    assert len(PackedLogits.of(np.zeros((0, 16, 16), np.float32))) == 0


def test_arrays_and_back() -> None:
    packed = PackedLogits.of(_blobs(3, 32))
    again = PackedLogits.of_arrays(packed.arrays("mask_"), "mask_")
    assert np.array_equal(again.logits([2, 0]), packed.logits([2, 0]))


def test_damaged_bytes_and_other_shapes_are_refused() -> None:
    packed = PackedLogits.of(_blobs(1, 32))
    with pytest.raises(MaskError, match="as it was packed"):
        PackedLogits(32, packed.boxes, (b"nothing",)).logits([0])
    with pytest.raises(MaskError, match="K, L, L"):
        PackedLogits.of(np.zeros((3, 4, 5), np.float32))


@pytest.mark.parametrize("hw", [(700, 1000), (90, 60)])
def test_rounded_logits_give_the_masks_of_packed_ones(hw: tuple[int, int]) -> None:
    logits = rounded(_blobs(12))
    back = PackedLogits.of(logits).logits(range(12))
    assert np.array_equal(resize_logits(logits, hw) > 0, resize_logits(back, hw) > 0)
