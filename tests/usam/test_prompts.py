"""The paper's prompts on shapes whose answer is known, and every way a prompt can be wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usam import prompts
from usam.errors import PromptError
from usam.prompts import Prompt

HW = (50, 60)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)).filter(np.any)


def rectangle(x0: int, y0: int, x1: int, y1: int, image_hw: tuple[int, int] = HW) -> npt.NDArray[np.bool_]:
    mask = np.zeros(image_hw, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def slow_centre(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The protocol, pixel by pixel: a pixel stays if all of its 5 x 5 neighbours that are in the image are set."""
    height, width = mask.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    stay = [
        (y, x) for y, x in pixels if mask[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].all()
    ]  # fmt: skip
    cy, cx = np.mean([y for y, _ in pixels]), np.mean([x for _, x in pixels])
    distances = [round((y - cy) ** 2 + (x - cx) ** 2, 9) for y, x in stay or pixels]
    return list((stay or pixels)[int(np.argmin(distances))][::-1])


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_centre_point_follows_the_protocol(mask: npt.NDArray[np.bool_]) -> None:
    x, y = prompts.centre_point(mask)
    assert mask[int(y), int(x)]
    expected_x, expected_y = slow_centre(mask)
    cy, cx = (values.mean() for values in np.nonzero(mask))
    assert (x - cx) ** 2 + (y - cy) ** 2 == pytest.approx((expected_x - cx) ** 2 + (expected_y - cy) ** 2)


def test_centre_of_a_rectangle_is_its_middle() -> None:
    assert prompts.centre_point(rectangle(10, 20, 31, 41)).tolist() == [20, 30]


def test_centre_of_a_ring_lies_on_the_ring_away_from_its_edge() -> None:
    y, x = np.mgrid[:80, :80]
    radius = np.hypot(x - 40, y - 40)
    centre_x, centre_y = prompts.centre_point((radius > 15) & (radius < 30))
    assert 17 <= np.hypot(centre_x - 40, centre_y - 40) < 19


def test_centre_of_a_thin_line_falls_back_to_the_line() -> None:
    assert prompts.centre_point(rectangle(10, 20, 15, 21)).tolist() == [12, 20]


def test_the_image_edge_does_not_erode() -> None:
    assert prompts.centre_point(np.ones((3, 3), bool)).tolist() == [1, 1]
    assert prompts.centre_point(np.ones((1, 1), bool)).tolist() == [0, 0]


@given(MASKS, st.integers(0, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_random_points_lie_on_the_mask_and_repeat_only_when_they_must(mask, count: int, seed: int) -> None:
    points = prompts.random_points(mask, count, np.random.default_rng(seed))
    assert points.shape == (count, 2)
    assert points.dtype == np.float32
    columns, rows = points.astype(int).T
    assert mask[rows, columns].all()
    if count <= mask.sum():
        assert len({tuple(xy) for xy in points.tolist()}) == count


def test_random_points_are_spread_evenly_and_repeatable() -> None:
    mask = rectangle(10, 20, 30, 30)
    points = prompts.random_points(mask, 5000, np.random.default_rng(0))
    assert points.mean(0) == pytest.approx([19.5, 24.5], abs=0.3)
    again = prompts.random_points(mask, 5000, np.random.default_rng(0))
    assert (points == again).all()


def test_dense_prompt_is_the_centre_and_seven_more() -> None:
    mask = rectangle(10, 20, 31, 41)
    points = prompts.dense_points(mask, np.random.default_rng(0))
    assert points.shape == (8, 2)
    assert points[0].tolist() == [20, 30]
    assert mask[points[:, 1].astype(int), points[:, 0].astype(int)].all()


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_box_is_the_tightest_one(mask: npt.NDArray[np.bool_]) -> None:
    x0, y0, x1, y1 = prompts.box_of(mask).astype(int)
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()  # noqa: PT018
    prompts.validate_box([x0, y0, x1, y1], mask.shape)


@pytest.mark.parametrize("read", [prompts.centre_point, prompts.random_points, prompts.dense_points, prompts.box_of])
@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros(HW, bool), "got an empty one"),
        (np.zeros((0, 3), bool), "shape"),
        (np.zeros((3, 3, 3), bool), "shape"),
        (np.full((3, 3), 0.5), "other float64 values"),
        (np.full((3, 3), "a"), "mask of numbers"),
    ],
)
def test_masks_without_an_object_are_refused(read, mask: npt.NDArray[np.generic], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        read(mask)


def test_float_masks_of_zero_and_one_are_masks() -> None:
    assert prompts.box_of(rectangle(1, 2, 3, 4).astype(np.float32)).tolist() == [1, 2, 3, 4]


def test_grid_covers_the_image_evenly() -> None:
    grid = prompts.grid_points((40, 100), 2)
    assert grid.tolist() == [[25, 10], [75, 10], [25, 30], [75, 30]]
    assert prompts.grid_points((1, 1), 1).tolist() == [[0.5, 0.5]]
    prompts.validate_points(prompts.grid_points((3, 7), 16), np.ones(256), (3, 7))
    for image_hw, per_side in (((40, 100), 0), ((0, 100), 2)):
        with pytest.raises(PromptError):
            prompts.grid_points(image_hw, per_side)


def test_correction_clicks_the_middle_of_what_is_missing() -> None:
    xy, label = prompts.correction_point(rectangle(10, 10, 41, 21), rectangle(10, 10, 20, 21))
    assert label == 1
    assert 24 <= xy[0] <= 36
    assert xy[1] == 15


def test_correction_clicks_the_middle_of_what_is_too_much() -> None:
    truth, predicted = rectangle(10, 10, 20, 20), rectangle(10, 10, 20, 20) | rectangle(40, 30, 51, 41)
    predicted[10, 10] = False
    xy, label = prompts.correction_point(truth, predicted)
    assert (xy.tolist(), label) == ([45, 35], 0)


def test_correction_prefers_a_compact_error_to_a_long_thin_one() -> None:
    truth = rectangle(0, 0, 60, 2) | rectangle(20, 20, 29, 29)
    xy, label = prompts.correction_point(truth, np.zeros(HW, bool))
    assert (xy.tolist(), label) == ([24, 24], 1)


@given(MASKS, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_correction_always_names_a_wrong_pixel_and_its_side(truth, seed: int) -> None:
    predicted = np.random.default_rng(seed).random(truth.shape) < 0.5
    if (truth == predicted).all():
        return
    (x, y), label = prompts.correction_point(truth, predicted)
    assert truth[int(y), int(x)] == bool(label)
    assert predicted[int(y), int(x)] != bool(label)


def test_correction_needs_an_error_and_one_size() -> None:
    with pytest.raises(PromptError, match="differ, got equal ones"):
        prompts.correction_point(rectangle(1, 1, 2, 2), rectangle(1, 1, 2, 2))
    with pytest.raises(PromptError, match="one size"):
        prompts.correction_point(np.ones((2, 2), bool), np.ones((2, 3), bool))


def test_a_prompt_takes_lists_and_grows_by_a_click() -> None:
    prompt = Prompt([[1, 2]], [1]).with_point((30, 40), 0).check(HW)
    assert prompt.points.tolist() == [[1, 2], [30, 40]]
    assert prompt.points.dtype == np.float32
    assert prompt.labels.tolist() == [1, 0]
    assert prompt.labels.dtype == np.int32
    assert prompt.box is None
    boxed = Prompt([], [], [1, 2, 3, 4])
    assert boxed.check(HW).points.shape == (0, 2)
    assert boxed.with_point([2, 3], 1).box.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Prompt([], []), "got an empty prompt"),
        (lambda: Prompt([[1, 2]], []), r"label for each point, shape \(1,\), got \(0,\)"),
        (lambda: Prompt([[1, 2, 3]], [1]), r"shape \(1, 3\)"),
        (lambda: Prompt([1, 2], [1]), r"shape \(2,\)"),
        (lambda: Prompt([[[1, 2]]], [[1]]), "make one Prompt each"),
        (lambda: Prompt([[1, np.nan]], [1]), "NaN"),
        (lambda: Prompt([[1, 2]], [2]), "labels 0 .background. and 1 .object., got 2"),
        (lambda: Prompt([[1, 2]], [0.5]), "got 0.5"),
        (lambda: Prompt([["a", "b"]], [1]), "points as numbers"),
        (lambda: Prompt([[1, 2], [3]], [1, 1]), "points as numbers"),
        (lambda: Prompt([], [], [[1, 2, 3, 4], [1, 2, 3, 4]]), "one box"),
        (lambda: Prompt([], [], [1, 2, 3]), r"shape \(3,\)"),
        (lambda: Prompt([], [], "abcd"), "box as numbers"),
        (lambda: Prompt([[60, 2]], [1]).check(HW), r"0 <= x < 60 and 0 <= y < 50, got \(60, 2\)"),
        (lambda: Prompt([[1, 2]], [1], [5, 5, 1, 1]).check(HW), "x0 < x1"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(make, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        make()


def test_points_of_several_prompts_keep_their_shape() -> None:
    points, labels = prompts.validate_points(np.zeros((3, 2, 2)), np.ones((3, 2), bool), HW)
    assert points.shape == (3, 2, 2)
    assert labels.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        (np.zeros((0, 2)), [], "at least one point"),
        (np.zeros((3, 0, 2)), np.zeros((3, 0)), "at least one point"),
        ([[-0.1, 2]], [1], r"got \(-0.1, 2\)"),
        ([[1, 50]], [1], r"got \(1, 50\)"),
        ([[1, 2], [99, 2], [1, 99]], [1, 1, 1], r"got \(99, 2\) and 1 more outside"),
        ([[np.inf, 2]], [1], "infinity"),
        ([[1, 2]], [[1]], "label for each point"),
        ([[1, 2]], [np.nan], "got nan"),
    ],
)
def test_points_that_cannot_be_used_are_refused(points, labels, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        prompts.validate_points(points, labels, HW)


def test_a_box_may_touch_the_edges_of_the_image() -> None:
    assert prompts.validate_box([0, 0, 60, 50], HW).tolist() == [0, 0, 60, 50]
    assert prompts.validate_box([[0, 0, 60, 50]] * 2, HW).shape == (2, 4)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([30, 5, 10, 20], r"x0 < x1 and y0 < y1, got \(30, 5, 10, 20\)"),
        ([10, 20, 30, 20], r"got \(10, 20, 30, 20\)"),
        ([-1, 0, 5, 5], "within the image's 60 x 50 pixels"),
        ([[0, 0, 5, 5], [0, 0, 61, 5]], r"got \(0, 0, 61, 5\)"),
        ([0, 0, np.nan, 5], "NaN"),
        ([0, 0, 5], r"shape \(3,\)"),
        (np.zeros((0, 4)), "at least one box"),
        (None, "box"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(box, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        prompts.validate_box(box, HW)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (5, 1, 64, 64)])
def test_mask_inputs_keep_their_shape(shape: tuple[int, ...]) -> None:
    logits = prompts.validate_mask_input(np.zeros(shape, np.float64), (64, 64))
    assert logits.shape == shape
    assert logits.dtype == np.float32


@pytest.mark.parametrize(
    ("mask_input", "said"),
    [
        (np.zeros((1, 256, 256)), r"got \(1, 256, 256\)"),
        (np.zeros((3, 64, 64)), r"\(P, 1, 64, 64\), got \(3, 64, 64\)"),
        (np.zeros((0, 1, 64, 64)), r"got \(0, 1, 64, 64\)"),
        (np.zeros(64), r"got \(64,\)"),
        (np.full((64, 64), np.nan), "NaN"),
        ("mask", "array of logits"),
    ],
)
def test_mask_inputs_of_another_size_are_refused(mask_input, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        prompts.validate_mask_input(mask_input, (64, 64))
