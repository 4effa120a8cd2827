"""Overlap and suppression against plain set arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usam.errors import MaskError
from usam.masks import box_iou, box_nms, iou, mask_box, nms, overlap, pairwise_iou


def stack_of(seed: int, count: int, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Random masks, some sparse, some empty, some confined to a corner."""
    rng = np.random.default_rng(seed)
    masks = rng.random((count, height, width)) < rng.random((count, 1, 1)) * rng.integers(0, 2, (count, 1, 1))
    masks[::3, height // 2 :] = False
    return masks


def slow_iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    first = set(np.flatnonzero(a).tolist())
    second = set(np.flatnonzero(b).tolist())
    return len(first & second) / len(first | second) if first | second else 1.0


def slow_nms(masks: npt.NDArray[np.bool_], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(masks)), key=lambda i: (-scores[i], i)):
        if all(slow_iou(masks[index], masks[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@given(st.integers(0, 10**6), st.integers(0, 7), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("has_bit_count", [True, False])
def test_pairs_are_counted_exactly(has_bit_count: bool, seed: int, count: int, height: int, width: int) -> None:
    masks = stack_of(seed, count, height, width)
    expected = np.array([[slow_iou(a, b) for b in masks] for a in masks]).reshape(count, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_HAS_BIT_COUNT", has_bit_count and overlap._HAS_BIT_COUNT)
        assert pairwise_iou(masks) == pytest.approx(expected)
    assert iou(masks[:, None], masks[None]) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(0, 9), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
@settings(max_examples=100, deadline=None)
def test_suppression_keeps_what_the_definition_keeps(seed: int, count: int, threshold: float) -> None:
    masks = stack_of(seed, count, 6, 8)
    scores = np.random.default_rng(seed).integers(0, 4, count).tolist()
    assert nms(masks, scores, threshold).tolist() == slow_nms(masks, scores, threshold)


def test_iou_of_known_masks() -> None:
    left, right = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :4], right[:, 2:] = True, True
    assert iou(left, right) == pytest.approx(8 / 24)
    assert iou(left, left) == 1
    assert iou(left, np.zeros((4, 6))) == 0
    assert iou(np.zeros((4, 6)), np.zeros((4, 6))) == 1
    assert iou(np.stack([left, right]).astype(np.uint8) * 255, left.astype(np.float32)).tolist() == [1, 1 / 3]


def test_copies_of_the_best_mask_are_dropped_and_ties_go_to_the_first() -> None:
    mask = np.eye(8, dtype=bool)
    assert nms(np.stack([mask, ~mask, mask]), [0.5, 0.4, 0.9]).tolist() == [2, 1]
    assert nms(np.stack([mask, mask]), [0.5, 0.5]).tolist() == [0]
    assert nms(np.zeros((0, 4, 4), bool), []).tolist() == []


def test_boxes_overlap_by_area() -> None:
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [1, 1, 1, 9]]
    assert box_iou(boxes, boxes[:2]).tolist() == [[1, 1 / 3], [1 / 3, 1], [0, 0], [0, 0]]
    assert box_nms(boxes, [0.1, 0.2, 0.3, 0.4], 0.3).tolist() == [3, 2, 1]
    assert box_nms(boxes, [0.1, 0.2, 0.3, 0.4], 0.5).tolist() == [3, 2, 1, 0]


def test_box_of_a_mask() -> None:
    mask = np.zeros((5, 7), bool)
    assert mask_box(mask).tolist() == [0, 0, 0, 0]
    mask[2:4, 1:6] = True
    assert mask_box(mask).tolist() == [1, 2, 6, 4]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: iou(np.zeros((2, 2)), np.zeros((2, 3))), r"one size, \(2, 2\), got \(2, 3\)"),
        (lambda: iou(np.zeros(2), np.zeros(2)), "masks"),
        (lambda: iou(np.full((2, 2), 0.7), np.zeros((2, 2))), "compare logits with 0 first"),
        (lambda: pairwise_iou(np.zeros((2, 2), bool)), r"\(N, H, W\)"),
        (lambda: nms(np.zeros((2, 2, 2), bool), [1.0]), "2 scores"),
        (lambda: nms(np.zeros((1, 2, 2), bool), [np.nan]), "NaN"),
        (lambda: box_iou([[0, 0, 1]], [[0, 0, 1, 1]]), r"boxes \(N, 4\)"),
        (lambda: box_nms([[0, 0, 1, np.inf]], [1.0]), "finite"),
        (lambda: mask_box(np.zeros((0, 3))), "at least 1 x 1"),
    ],
)
def test_malformed_input_is_named(call, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        call()
