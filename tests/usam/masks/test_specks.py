from __future__ import annotations

import unittest.mock
from typing import Any

import cv2
import hypothesis.strategies as hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy

from usam.masks import one_object, specks, without_specks


def square(size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[20:80, 20:80] = True
    return mask


def test_small_islands_go_and_small_holes_are_filled() -> None:
    mask = square()
    mask[5, 5] = True
    mask[50, 50] = False
    np.testing.assert_array_equal(without_specks(mask), square())


def test_large_islands_and_holes_stay() -> None:
    mask = square()
    mask[2:12, 2:12] = True
    mask[40:60, 40:60] = False
    np.testing.assert_array_equal(without_specks(mask), mask)


def test_a_gap_at_the_images_edge_is_no_hole() -> None:
    mask = np.ones((60, 60), bool)
    mask[0, 30] = False
    np.testing.assert_array_equal(without_specks(mask), mask)


def test_scattered_pixels_leave_one() -> None:
    mask = np.zeros((60, 60), bool)
    mask[::3, ::3] = True
    assert without_specks(mask, share=0.1).sum() == 1


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.ones((4, 5), bool), np.ones((1, 1), bool)])
def test_empty_and_full_masks_stay(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(without_specks(mask), mask)


def by_the_definition(mask: np.ndarray, share: float) -> np.ndarray:
    """Every part of the whole image looked at, one after the other."""
    least = share * mask.sum()
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    sizes = np.bincount(labels.ravel())
    kept = {number for number in range(1, len(sizes)) if sizes[number] >= least}
    kept = kept or {1 + int(sizes[1:].argmax())}
    clean = np.isin(labels, list(kept))
    _, labels = cv2.connectedComponents((~clean).astype(np.uint8), connectivity=4)
    edge = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    for number in range(1, labels.max() + 1):
        if number not in edge and (labels == number).sum() < least:
            clean |= labels == number
    return clean


@pytest.mark.parametrize("many", [0, 64])
@settings(max_examples=100, deadline=None)
@given(data=hypothesis.data())
def test_looking_at_the_bounding_box_is_looking_at_the_image(many: int, data: Any) -> None:
    mask = data.draw(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=24)))
    share = data.draw(hypothesis.sampled_from([0.01, 0.05, 0.2, 0.6]))
    if not mask.any():
        return
    before = mask.copy()
    with unittest.mock.patch.object(specks, "MANY", many):
        np.testing.assert_array_equal(without_specks(mask, share), by_the_definition(mask, share))
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=60, deadline=None)
@given(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_never_empties_a_mask(mask: np.ndarray) -> None:
    once = without_specks(mask, share=0.05)
    assert once.any() == mask.any()
    assert once.shape == mask.shape
    assert without_specks(mask, share=0) is mask


@pytest.mark.parametrize("seed", range(60))
def test_outlines_tell_what_labels_tell(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(2, 60, 2))
    mask = cv2.resize(rng.random((5, 5)).astype(np.float32), (width, height)) > rng.choice([0.3, 0.5, 0.7])
    mask ^= rng.random(mask.shape) < rng.choice([0.0, 0.002, 0.02, 0.3])
    monkeypatch.setattr(specks, "PLAIN", 10**6)
    by_outlines = without_specks(mask, 0.05)
    monkeypatch.setattr(specks, "PLAIN", -1)
    np.testing.assert_array_equal(by_outlines, without_specks(mask, 0.05))


def test_one_even_object_is_not_labelled_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specks, "_parts", None)
    np.testing.assert_array_equal(without_specks(square()), square())


def test_what_one_click_meant_is_its_largest_island() -> None:
    logits = np.full((2, 20, 20), -3.0, np.float32)
    logits[:, :10, :10] = 4.0
    logits[0, 12:, 12:] = 5.0  # another fruit of its colour
    logits[1, 10, 10] = 4.0  # touches at a corner
    clean = one_object(logits)
    assert (clean[0] > 0).sum() == 100
    assert (clean[0, 12:, 12:] == -5).all()
    np.testing.assert_array_equal(clean[1], logits[1])
    assert (logits[0] > 0).sum() == 164, "what was given stays"
    assert one_object(logits[:0]).shape == (0, 20, 20)
