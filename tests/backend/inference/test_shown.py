"""Few and clean before anything is learnt; what the project wants, under its learnt name, after that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.inference.model import ObjectLooks, ProposalGrid
from backend.inference.shown import GIVEN, choose_shown, grid_of, judged
from backend.settings import Settings
from usam.objects.effort import Threshold
from usam.objects.linear import LinearHead
from usam.objects.project_heads import ChosenGrid, ObjectSizes, ProjectHeads
from usam.predictor.clean_proposals import Layout
from usam.predictor.object_features import SHAPE_NAMES

SHAPES = len(SHAPE_NAMES)
VERSION = "object-features-1/nano-m/2x4"


def settings(**given: Any) -> Settings:
    return Settings.from_environment(model="nano-m", **given)


def boxes(*corners: tuple[int, int, int, int], side: int = 40) -> Layout:
    masks = np.zeros((len(corners), side, side), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return Layout.of(masks)


def row_of_boxes(count: int) -> Layout:
    return boxes(*((20, 2 * k + 1, 24, 2 * k + 3) for k in range(count)), side=100)


def looks(features: np.ndarray[Any, Any], version: str = VERSION) -> ObjectLooks:
    return ObjectLooks(features.astype(np.float16), np.zeros((len(features), SHAPES), np.float32), version)


def linear(weights: list[list[float]], tail: int) -> LinearHead:
    """Tells by the sign of the first feature."""
    width = 2 + tail
    w = np.zeros((len(weights), width), np.float32)
    w[:, :2] = weights
    zero, one = np.zeros(width, np.float32), np.ones(width, np.float32)
    return LinearHead("logistic", zero, one, w, np.zeros(len(w), np.float32), 1.0, np.array([5, 5]), 0.1, tail)


def learnt(threshold: float = 0.5, *, selector: bool = True) -> ProjectHeads:
    """Wants what has a positive first feature; calls a `cat` what has a positive second one."""
    wanted = linear([[0.0, 0.0], [9.0, 0.0]], SHAPES) if selector else None
    classes = linear([[0.0, 6.0], [0.0, -6.0]], SHAPES - 2)
    return ProjectHeads(("cat", "dog"), VERSION, "nano-m", classes, wanted, Threshold(threshold, 0.9, 0.9))


def test_nothing_nested_whole_or_unsure_is_shown_before_anything_is_learnt() -> None:
    layout = boxes((0, 0, 40, 40), (5, 5, 15, 15), (6, 6, 12, 12), (20, 20, 30, 30), (20, 5, 30, 15))
    iou = np.array([0.99, 0.9, 0.85, 0.8, 0.3], np.float32)
    shown = choose_shown(layout, looks(np.zeros((5, 2))), iou, settings())
    assert shown.rows.tolist() == [1, 3], "no image, no part, nothing below the threshold"
    assert np.isnan(shown.wanted).all()
    assert [shown.label(row) for row in shown.rows.tolist()] == [(None, None)] * 2
    assert shown.label(1, "cat") == ("cat", None), "a label that came with a prompt"


def test_few_are_shown_and_more_on_request() -> None:
    layout, iou = row_of_boxes(30), np.linspace(0.9, 0.6, 30).astype(np.float32)
    nothing = looks(np.zeros((30, 2)))
    assert len(choose_shown(layout, nothing, iou, settings()).rows) == 8
    assert len(choose_shown(layout, nothing, iou, settings(max_regions=25)).rows) == 25
    assert len(choose_shown(layout, nothing, iou, settings(), given=True).rows) == GIVEN, "another model's marks"


def test_what_is_wanted_is_shown_under_its_name() -> None:
    features = np.array([[1, 1], [-1, 1], [1, -1], [1, 0]])
    iou = np.array([0.5, 0.99, 0.45, 0.6], np.float32)
    shown = choose_shown(row_of_boxes(4), looks(features), iou, settings(), learnt())
    assert sorted(shown.rows.tolist()) == [0, 2, 3], "the surest mask is of something nobody wants"
    assert shown.labels == ["cat", "cat", "dog", "cat"] or shown.labels[:3] == ["cat", "cat", "dog"]
    name, sure = shown.label(0)
    assert name == "cat"
    assert sure is not None
    assert sure > 0.9
    assert shown.label(0, "dog") == ("dog", None)


def test_what_is_learnt_may_show_more_than_a_few_unless_the_setting_says_so() -> None:
    layout, iou = row_of_boxes(30), np.full(30, 0.9, np.float32)
    wanted = looks(np.ones((30, 2)))
    assert len(choose_shown(layout, wanted, iou, settings(), learnt()).rows) == 30
    assert len(choose_shown(layout, wanted, iou, settings(max_regions=5), learnt()).rows) == 5


def test_a_poor_outline_of_a_wanted_thing_is_not_shown() -> None:
    shown = choose_shown(row_of_boxes(2), looks(np.ones((2, 2))), np.array([0.45, 0.35]), settings(), learnt())
    assert shown.rows.tolist() == [0]


@pytest.mark.parametrize(
    ("side", "many", "given", "grid"),
    [
        (0.1, 4, {}, (8, 40)),
        (0.08, 10, {}, (12, 40)),
        (0.03, 60, {}, (16, 150)),
        (0.06, 30, {}, (16, 90)),
        (0.03, 60, {"points_per_side": 6}, (6, 40)),
        (0.03, 60, {"max_regions": 60}, (16, 150)),
    ],
)
def test_the_grid_is_as_dense_as_the_marked_objects_are_small(
    side: float, many: float, given: dict[str, int], grid: tuple[int, int]
) -> None:
    found = grid_of(settings(**given), replace(learnt(), sizes=ObjectSizes(side, many)))
    assert (found.points_per_side, found.most) == grid


def test_the_grid_that_labels_chose_goes_before_what_their_size_asks_for_and_after_the_settings() -> None:
    chosen = replace(learnt(), sizes=ObjectSizes(0.02, 20), grid=ChosenGrid(12, 2))
    assert grid_of(settings(), chosen) == ProposalGrid(12, 60, 2)
    assert grid_of(settings(tiles=1), chosen) == ProposalGrid(16, 60, 1)
    assert grid_of(settings(points_per_side=5), chosen) == ProposalGrid(5, 40, 1)
    assert grid_of(settings(tiles=3), None) == ProposalGrid(8, 40, 3)


def test_nobodys_marks_ask_for_no_other_grid() -> None:
    for known in (None, learnt()):
        assert grid_of(settings(), known) == ProposalGrid(8, 40)


def test_other_features_teach_nothing() -> None:
    features = looks(np.ones((2, 2)), "object-features-1/other/2x4")
    wanted, sure, labels = judged(features, learnt())
    assert np.isnan(wanted).all()
    assert np.isnan(sure).all()
    assert labels == [None, None]


def test_classes_alone_name_what_predicted_iou_shows() -> None:
    shown = choose_shown(
        row_of_boxes(2), looks(np.array([[0, 1], [0, -1]])), np.array([0.9, 0.2]), settings(), learnt(selector=False)
    )
    assert shown.rows.tolist() == [0]
    assert shown.labels == ["cat", "dog"]


@pytest.mark.parametrize("selector", [True, False])
def test_an_image_without_candidates_shows_nothing(selector: bool) -> None:
    empty = Layout(np.zeros(0), np.zeros(0), np.zeros((0, 0)))
    shown = choose_shown(empty, looks(np.zeros((0, 2))), np.zeros(0), settings(), learnt(selector=selector))
    assert (shown.rows.tolist(), shown.labels) == ([], [])
