"""Entropies against values worked out by hand and against a slow, plain computation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usam.errors import ImageError, MaskError
from usam.predictor import entropy

LOGITS = st.floats(-30, 30, width=32)


def plain_entropy(p: npt.NDArray[np.float64]) -> float:
    """H(p) of one map (h, w), pixel by pixel."""
    weighted, total = 0.0, 0.0
    for value in p.ravel().tolist():
        bits = sum(-v * math.log2(v) for v in (value, 1 - value) if v > 0)
        weighted, total = weighted + value * bits, total + value
    return weighted / total if total else 0.0


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize(("p", "bits"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.811278), (0.75, 0.811278)])
def test_binary_entropy_is_in_bits(p: float, bits: float) -> None:
    assert entropy.binary_entropy_map(np.full((2, 2), p, np.float32)) == pytest.approx(np.full((2, 2), bits), abs=1e-6)


def test_likely_pixels_weigh_more_than_unlikely_ones() -> None:
    undecided_inside = np.array([[0.5, 0.0]], np.float32)
    undecided_beside_certain = np.array([[0.5, 1.0]], np.float32)
    assert entropy.mask_entropy(undecided_inside) == pytest.approx(1.0)
    assert entropy.mask_entropy(undecided_beside_certain) == pytest.approx(1 / 3)


def test_entropy_of_a_map_of_zeros_is_zero() -> None:
    assert entropy.mask_entropy(np.zeros((3, 4, 4), np.float32)).tolist() == [0, 0, 0]


@given(hnp.arrays(np.float32, (2, 3, 4), elements=LOGITS))
@settings(max_examples=50, deadline=None)
def test_std_is_the_plain_entropy_and_within_bounds(logits: npt.NDArray[np.float32]) -> None:
    got = entropy.h_std(logits)
    assert got.shape == (2,)
    assert ((got >= 0) & (got <= 1 + 1e-6)).all()
    assert got == pytest.approx([plain_entropy(sigmoid(plane)) for plane in logits], abs=1e-4)


def test_a_weighs_masks_by_their_sam_score() -> None:
    rng = np.random.default_rng(0)
    logits, scores = rng.normal(0, 4, (5, 3, 8, 8)).astype(np.float32), rng.random((5, 3)).astype(np.float32)
    weights = scores / scores.sum(1, keepdims=True)
    mixed = (weights[..., None, None] * sigmoid(logits)).sum(1)
    assert entropy.h_a(logits, scores) == pytest.approx([plain_entropy(p) for p in mixed], abs=1e-5)


def test_a_of_agreeing_masks_is_that_of_one_and_of_contradicting_ones_is_high() -> None:
    one = np.full((8, 8), 9, np.float32)
    one[:, :4] = -9
    agreeing = np.stack([one, one, one])
    contradicting = np.stack([one, -one, one])
    scores = np.array([0.5, 0.5, 0.0], np.float32)
    assert entropy.h_a(agreeing, scores) == pytest.approx(float(entropy.h_std(one)), abs=1e-6)
    assert entropy.h_a(contradicting, scores) == pytest.approx(1.0, abs=1e-4)


def test_a_without_any_score_weighs_masks_equally() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (3, 6, 6)).astype(np.float32)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert entropy.h_a(logits, zero) == pytest.approx(float(entropy.h_a(logits, one)), abs=1e-6)


@pytest.mark.parametrize("measure", [entropy.h_xp, entropy.h_theta, entropy.h_t])
def test_sources_are_averaged_as_probabilities(measure) -> None:
    logits = np.random.default_rng(2).normal(0, 4, (2, 8, 3, 5, 5)).astype(np.float32)
    per_mask = measure(logits, axis=1)
    expected = [[plain_entropy(p) for p in masks] for masks in sigmoid(logits).mean(1)]
    assert per_mask == pytest.approx(np.array(expected), abs=1e-5)
    assert measure(np.moveaxis(logits, 1, -3)) == pytest.approx(per_mask, abs=1e-6)


def test_y_mixes_masks_by_score_and_sources_equally() -> None:
    rng = np.random.default_rng(3)
    logits, scores = rng.normal(0, 4, (2, 7, 3, 5, 5)).astype(np.float32), rng.random((2, 7, 3), np.float32)
    weights = scores / scores.sum(-1, keepdims=True)
    mixed = (weights[..., None, None] * sigmoid(logits)).sum(2).mean(1)
    assert entropy.h_y(logits, scores) == pytest.approx([plain_entropy(p) for p in mixed], abs=1e-5)
    one_source = entropy.h_y(logits[:, :1], scores[:, :1])
    assert one_source == pytest.approx(entropy.h_a(logits[:, 0], scores[:, 0]), abs=1e-6)


def test_certain_masks_stay_defined_in_float32() -> None:
    logits = np.full((4, 3, 16, 16), 80, np.float32)
    scores = np.random.default_rng(4).random((4, 3), np.float32)
    assert entropy.h_a(logits, scores) == pytest.approx(np.zeros(4), abs=1e-5)


def test_tensors_are_answered_with_tensors() -> None:
    logits, scores = torch.randn(2, 3, 8, 8), torch.rand(2, 3)
    answer = entropy.h_a(logits, scores)
    assert isinstance(answer, torch.Tensor)
    assert answer.numpy() == pytest.approx(entropy.h_a(logits.numpy(), scores.numpy()))
    assert entropy.h_std(logits.to(torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: entropy.h_std(np.zeros(3, np.float32)), "at least 2 axes"),
        (lambda: entropy.h_xp(np.zeros((4, 4), np.float32)), "at least 3 axes"),
        (lambda: entropy.h_a(np.zeros((3, 4, 4), np.float32), np.zeros(2, np.float32)), r"each mask, \(3,\)"),
        (lambda: entropy.h_a(np.zeros((3, 4, 4), np.float32), np.full(3, -1, np.float32)), "at least 0"),
        (lambda: entropy.h_y(np.zeros((2, 3, 4, 4), np.float32), np.full((2, 3), np.nan)), "NaN"),
    ],
)
def test_wrong_shapes_and_scores_are_named(call, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        call()


def test_augmentations_keep_the_shape_and_change_the_picture_in_their_own_way() -> None:
    y, x = np.mgrid[:48, :64]
    image = np.stack([x * 4, y * 5, (x // 8 + y // 8) % 2 * 255], axis=-1).astype(np.uint8)
    variants = entropy.augmentations(image, np.random.default_rng(0))
    assert list(variants) == ["jpeg_10", "jpeg_30", "noise", "blur"]
    assert all(v.shape == image.shape and v.dtype == np.uint8 for v in variants.values())
    error = {name: np.abs(v.astype(float) - image).mean() for name, v in variants.items()}
    assert error["jpeg_10"] > error["jpeg_30"] > 0
    assert 5 < error["noise"] < entropy.NOISE_SIGMA
    step_of = {name: np.abs(np.diff(v[..., 2].astype(float), axis=1)).max() for name, v in variants.items()}
    assert step_of["blur"] < 120
    assert (entropy.augmentations(image, np.random.default_rng(0))["noise"] == variants["noise"]).all()


def test_augmentations_refuse_what_is_no_rgb_image() -> None:
    with pytest.raises(ImageError, match="RGB image"):
        entropy.augmentations(np.zeros((4, 4), np.uint8), np.random.default_rng(0))
