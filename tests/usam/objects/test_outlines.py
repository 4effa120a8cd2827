"""What is measured of an outline tells where it would lie better."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.usam.objects.outlined import Knowing, halved, moved, nothing_told, picture
from usam.errors import MaskError
from usam.objects.outline_copies import COPIES
from usam.objects.outlines import HINT_NAMES, OUTLINE_NAMES, measure_outline

NO_MASKS, NO_SCORES = np.zeros((0, 30, 30), bool), np.zeros(0)


def number(figures: np.ndarray, name: str) -> float:  # type: ignore[type-arg]
    return float(figures[0, OUTLINE_NAMES.index(name)])


@pytest.mark.parametrize(("x", "y"), [(9, 0), (-8, 6), (0, -9)])
def test_a_moved_outline_says_where_it_would_lie_better(x: int, y: int) -> None:
    image, masks = picture(0)
    right = measure_outline(image, masks[0], NO_MASKS, NO_SCORES, nothing_told, 0, copied=False)
    wrong = measure_outline(image, moved(masks[0], x, y), NO_MASKS, NO_SCORES, nothing_told, 0, copied=False)
    assert wrong.hints[:2] == pytest.approx((-x, -y), abs=2.5)
    assert np.hypot(*right.hints[:2]) < 2.5
    assert number(wrong.figures, "fine_gain") > number(right.figures, "fine_gain") + 0.5


def test_pixels_are_those_of_the_image_however_large_it_is() -> None:
    image, masks = picture(0)
    large = cv2.resize(image, (600, 480))
    mask = cv2.resize(moved(masks[0], 9, 0).astype(np.uint8), (600, 480), interpolation=cv2.INTER_NEAREST) > 0
    assert measure_outline(large, mask, NO_MASKS, NO_SCORES, nothing_told, 0, copied=False).hints[:2] == pytest.approx(
        (-45, 0), abs=12
    )


def test_a_half_lies_well_where_it_is_but_for_one_side() -> None:
    image, masks = picture(0)
    whole, half = (
        measure_outline(image, mask, NO_MASKS, NO_SCORES, nothing_told, 0, copied=False).figures
        for mask in (masks[0], halved(masks[0]))
    )
    assert number(half, "fine_weakest_share") < 0.6 * number(whole, "fine_weakest_share")


def test_a_larger_mask_of_the_model_around_a_half_counts() -> None:
    image, masks = picture(0)
    models, scores = np.array([masks[0]]), np.array([0.9])
    whole, half = (
        measure_outline(image, mask, models, scores, nothing_told, 0, copied=False).figures
        for mask in (masks[0], halved(masks[0]))
    )
    assert number(whole, "overlap_same") == pytest.approx(0.9)
    assert number(whole, "overlap_larger") < 0
    assert number(half, "overlap_larger") == pytest.approx(0.9)
    assert number(half, "overlap_covered") == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("turn", range(4))
def test_a_half_goes_on_by_the_models_masks_of_points_in_it(turn: int) -> None:
    image, masks = picture(0)
    image, masks = np.ascontiguousarray(np.rot90(image, turn)), [np.rot90(mask, turn) for mask in masks]
    half = np.rot90(halved(picture(0)[1][0]), turn)
    asked = Knowing(masks)
    found = measure_outline(image, half, NO_MASKS, NO_SCORES, asked, 0, copied=False)
    assert asked.asked == 9, "eight points, and one"
    hints = dict(zip(HINT_NAMES, found.hints.tolist(), strict=True))
    missing_side = [(1, 0), (0, -1), (-1, 0), (0, 1)][turn]
    assert (hints["side_x"], hints["side_y"]) == pytest.approx(missing_side, abs=0.45)
    assert hints["missing"] == pytest.approx(0.5, abs=0.1)
    whole = measure_outline(image, masks[0], NO_MASKS, NO_SCORES, asked, 0, copied=False)
    assert number(found.figures, "dense_one_sided") > 0.5 > number(whole.figures, "dense_one_sided")
    assert dict(zip(HINT_NAMES, whole.hints.tolist(), strict=True))["missing"] < 0.15


def test_copies_are_the_same_each_time_and_spare_where_none_are_wanted() -> None:
    image, masks = picture(1)
    first, again, other = (
        measure_outline(image, masks[1], NO_MASKS, NO_SCORES, nothing_told, seed).figures for seed in (3, 3, 4)
    )
    assert first.shape == (len(COPIES), len(OUTLINE_NAMES))
    np.testing.assert_array_equal(first, again)
    assert (first[1:] != other[1:]).any(1).all()
    np.testing.assert_array_equal(first[0], other[0])
    assert np.isfinite(first).all()
    assert np.isnan(
        measure_outline(image, masks[1], NO_MASKS, NO_SCORES, nothing_told, 0, copied=False).figures[1:]
    ).all()


@pytest.mark.parametrize("region", [np.s_[0:1, 0:1], np.s_[:, :], np.s_[50:51, :], np.s_[119:, 100:]], ids=str)
def test_odd_masks_have_figures(region: tuple[slice, slice]) -> None:
    image, masks = picture(1)
    mask = np.zeros((120, 120), bool)
    mask[region] = True
    found = measure_outline(image, mask, np.array(masks), np.full(4, 0.5), nothing_told, 0)
    assert np.isfinite(found.figures).all()
    assert np.isfinite(found.hints).all()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(MaskError, match="at least one pixel"):
        measure_outline(picture(0)[0], np.zeros((120, 120), bool), NO_MASKS, NO_SCORES, nothing_told, 0)
