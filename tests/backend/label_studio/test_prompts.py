"""What was drawn with a smart tool, or left by another model, becomes prompts: one for each object."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import RegionError
from backend.label_studio.prompts import is_positive, prompts_from_context, prompts_from_task, stroke_points
from tests.backend.label_studio.drawn import HW, box, item, point
from usam.masks import encode_rle


def test_points_make_one_prompt_in_pixels() -> None:
    found = prompts_from_context([point(25, 50), point(75, 25, positive=False), point(50, 50)], HW)
    assert len(found) == 1
    assert found[0].label == "A"
    assert found[0].prompt.points.tolist() == [[16, 24], [32, 24], [48, 12]]
    assert found[0].prompt.labels.tolist() == [1, 1, 0]
    assert found[0].prompt.box is None


def test_labels_make_objects_of_their_own() -> None:
    found = prompts_from_context([point(25, 50, "A"), point(75, 50, "B")], HW)
    assert [one.label for one in found] == ["A", "B"]


def test_boxes_take_the_points_inside_and_all_negative_ones() -> None:
    context = [
        box(0, 0, 50, 100),
        box(10, 10, 20, 20, "B"),
        point(15, 15),
        point(40, 90),
        point(90, 90, positive=False),
    ]
    large, small = prompts_from_context(context, HW)
    assert large.prompt.box is not None
    assert large.prompt.box.tolist() == [0, 0, 32, 48]
    assert large.prompt.labels.tolist() == [1, 0]
    assert small.label == "B"
    assert small.prompt.points[0].tolist() == pytest.approx([9.6, 7.2])


def test_point_outside_several_boxes_is_another_object() -> None:
    found = prompts_from_context([box(0, 0, 20, 20), box(30, 30, 20, 20), point(90, 90)], HW)
    assert [one.prompt.box is None for one in found] == [False, False, True]
    near_one = prompts_from_context([box(0, 0, 20, 20), point(90, 90)], HW)
    assert len(near_one) == 1
    assert near_one[0].prompt.labels.tolist() == [1]


def test_rotated_box_and_ellipse_become_the_box_around_them() -> None:
    turned = box(50, 50, 25, 25)
    turned["value"]["rotation"] = 90  # type: ignore[index]
    prompt = prompts_from_context([turned], HW)[0].prompt
    assert prompt.box is not None
    np.testing.assert_allclose(prompt.box, [20, 24, 32, 40], atol=1)
    oval = item("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0})
    prompt = prompts_from_context([oval], HW)[0].prompt
    assert prompt.box is not None
    np.testing.assert_allclose(prompt.box, [16, 12, 48, 36], atol=1)


def test_stroke_speaks_as_points_along_it() -> None:
    stroke = np.zeros(HW, bool)
    stroke[20:26, 8:56] = True
    context = [item("brushlabels", {"format": "rle", "rle": encode_rle(stroke), "brushlabels": ["B"]})]
    prompt = prompts_from_context(context, HW)[0]
    assert prompt.label == "B"
    xs = np.sort(prompt.prompt.points[:, 0])
    assert xs[0] < 14
    assert xs[-1] > 48
    assert all(stroke[int(y), int(x)] for x, y in prompt.prompt.points)
    assert len(stroke_points(stroke, 3)) == 3
    assert stroke_points(np.eye(1, dtype=bool)) == [(0.0, 0.0)]


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ([], "at least one positive"),
        ([point(10, 10, positive=False)], "1 negative"),
        ([{**point(10, 10), "original_width": 65}], "image has changed"),
        ([{**point(10, 10), "original_width": 48, "original_height": 64}], "EXIF"),
        ([{**point(10, 10), "image_rotation": 90}], "turned"),
        ([point(140, 10)], "on the image"),
        ([point(float("nan"), 10)], "finite"),
        ([box(10, 10, 0.5, 20)], "1 x 1"),
        ([item("brushlabels", {"rle": "x"})], "run lengths"),
        ([item("keypointlabels", {"x": "1", "y": 2})], "finite"),
        ([point(1, 1)] * 501, "at most 500"),
    ],
)
def test_contexts_that_cannot_be_used(context: list[dict[str, object]], said: str) -> None:
    with pytest.raises(RegionError, match=said):
        prompts_from_context(context, HW)


def test_click_on_the_very_edge_is_on_the_image() -> None:
    assert prompts_from_context([point(100, 100)], HW)[0].prompt.points.tolist() == [[63, 47]]


def test_the_newest_prediction_prompts() -> None:
    theirs = {
        "model_version": "yolo",
        "result": [box(10, 10, 30, 30, "B"), {"type": "rectanglelabels"}, point(5, 5)],
        "created_at": "2026-02",
    }
    older = {"model_version": "yolo", "result": [box(50, 50, 30, 30)], "created_at": "2026-01"}
    found = prompts_from_task([older, theirs], HW)
    assert [one.label for one in found] == ["B", "A"]
    assert prompts_from_task([], HW) == []


def test_boxes_of_other_models_count_on_their_own_image() -> None:
    box = {"type": "rectangle", "value": {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}}
    theirs = {"result": [{**box, "to_name": "left"}, {**box, "to_name": "right"}, box]}
    assert len(prompts_from_task([theirs], HW, image_name="right")) == 2
    assert len(prompts_from_task([{"result": [{**box, "to_name": "left"}]}], HW, image_name="right")) == 0
    assert len(prompts_from_task([theirs], HW)) == 3


def test_a_label_beside_a_region_is_its_label() -> None:
    unlabelled = item("keypoint", {"x": 25, "y": 50, "width": 0.5})
    beside = item("labels", {"labels": ["B"]})
    assert [one.label for one in prompts_from_context([unlabelled, beside], HW)] == ["B"]
    assert [one.label for one in prompts_from_context([unlabelled, {**beside, "id": "other"}], HW)] == [None]


def test_a_negative_box_is_no_object() -> None:
    with pytest.raises(RegionError, match="at least one positive"):
        prompts_from_context([{**box(10, 10, 20, 20), "is_positive": False}], HW)


@pytest.mark.parametrize(("said", "positive"), [({}, True), ({"is_positive": 1}, True), ({"is_positive": "0"}, False)])
def test_regions_that_do_not_say_mean_here(said: dict[str, object], positive: bool) -> None:
    assert is_positive(said) is positive


def test_one_broken_region_of_another_model_does_not_hide_the_others() -> None:
    theirs = {"model_version": "yolo", "result": [box(10, 10, 0.1, 30), box(50, 50, 20, 20, "B")]}
    assert [one.label for one in prompts_from_task([theirs], HW)] == ["B"]


def test_an_older_prediction_speaks_where_the_newest_has_nothing_of_use() -> None:
    newest = {"model_version": "tagger", "result": [item("choices", {"choices": ["x"]})], "created_at": "2026-03"}
    older = {"model_version": "yolo", "result": [box(50, 50, 20, 20, "B")], "created_at": "2026-01"}
    assert [one.label for one in prompts_from_task([newest, older], HW)] == ["B"]


def test_a_stroke_of_one_place_is_one_point_and_an_empty_one_is_refused() -> None:
    dot = np.zeros(HW, bool)
    dot[10, 20] = True
    assert stroke_points(dot) == [(20.0, 10.0)]
    with pytest.raises(RegionError, match="at least one pixel"):
        stroke_points(np.zeros(HW, bool))
