"""Hostile regions: each is set aside by name, and nothing but `UsamError` ever leaves."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.label_studio.prompts import prompts_from_context, prompts_from_task
from backend.label_studio.shapes import MAX_OBJECTS, DrawnMask, drawn_masks, finite, labels_of, region_to_mask
from usam.errors import UsamError

HW = (24, 32)
HUGE = 10**400


def box(name: object = "r", label: object = "A", **rest: object) -> dict[str, Any]:
    value = {"x": 10, "y": 10, "width": 20, "height": 30, "rotation": 0, "rectanglelabels": [label]}
    return {"id": name, "from_name": "rect", "to_name": "img", "type": "rectanglelabels", "value": value, **rest}


def names(result: list[Any]) -> list[str]:
    return [drawn.name for drawn in drawn_masks(result)[0]]


def test_two_controls_under_one_id_are_one_object_and_the_second_label_is_said() -> None:
    (drawn,), left_out = drawn_masks([box("q1", "Airplane"), box("q1", "Car") | {"from_name": "label2"}])
    assert (drawn.name, drawn.label, drawn.image) == ("q1", "Airplane", "img")
    assert left_out == ["region q1: also labelled 'Car'; the first label, 'Airplane', is used"]


def test_another_outline_under_the_same_id_is_left_out_by_name() -> None:
    other = box("q1")
    other["value"] = other["value"] | {"x": 50}
    drawn, left_out = drawn_masks([box("q1"), other, box("q2")])
    assert [one.name for one in drawn] == ["q1", "q2"]
    assert left_out == ["region q1: a second outline under the same id; the first is used"]


def test_a_label_of_a_generic_control_is_found_by_its_id() -> None:
    shape = {"id": "a", "to_name": "img", "type": "rectangle", "value": {"x": 1, "y": 1, "width": 9, "height": 9}}
    label = {"id": "a", "to_name": "img", "type": "labels", "value": {**shape["value"], "labels": ["other"]}}  # type: ignore[dict-item]
    assert drawn_masks([shape, label]) == ([DrawnMask("a", shape, "other", "img")], [])
    assert [one.label for one in prompts_from_task([{"result": [shape, label]}], HW)] == ["other"]


@pytest.mark.parametrize(
    "ids",
    [
        ["x" * 80 + "a", "x" * 80 + "b"],
        [None, "1", None],
        ["", "#1", "#0"],
        ["\ud800", "\udfff", "?"],
        ["a\0", "a"],
        [10**30, 10**30 + 1, True, 1.5, {}, [1]],
    ],
)
def test_names_are_unique_short_storable_and_stay_the_same(ids: list[object]) -> None:
    result: list[Any] = []
    for number, name in enumerate(ids):
        one = box(name)
        one["value"]["x"] = number
        result.append(one)
    found = names(result)
    assert len(set(found)) == len(found) == len(ids)
    assert all(len(name) <= 64 and name.encode() and "\0" not in name for name in found)
    assert names(result) == found


def test_of_very_many_objects_the_first_are_used_and_the_rest_is_said() -> None:
    drawn, left_out = drawn_masks([box(f"r{number}") for number in range(MAX_OBJECTS + 5)])
    assert len(drawn) == MAX_OBJECTS
    assert left_out == [f"region r{MAX_OBJECTS} and those after it: only the first {MAX_OBJECTS} are used"]


def test_a_label_that_cannot_be_stored_is_left_out_by_name() -> None:
    drawn, left_out = drawn_masks([box("a", "\ud800"), box("b")])
    assert [one.name for one in drawn] == ["b"]
    assert left_out == ["region a: its label is no text that can be stored"]


@pytest.mark.parametrize("value", [HUGE, -HUGE, float("nan"), float("inf"), 1e300, True, None, "1", [1]])
def test_numbers_that_lie_on_no_image(value: object) -> None:
    with pytest.raises(UsamError, match="finite"):
        finite(value, "x")


@pytest.mark.parametrize("key", ["x", "y", "width", "height", "rotation"])
@pytest.mark.parametrize("value", [HUGE, -HUGE, 1e308, "1"])
def test_boxes_of_huge_numbers(key: str, value: object) -> None:
    region = box()
    region["value"][key] = value
    with pytest.raises(UsamError):
        region_to_mask(region, HW)
    with pytest.raises(UsamError):
        prompts_from_context([region], HW)


@pytest.mark.parametrize("size", [(HUGE, 24), (-32, -24), ("32", "24"), ([], {}), (32.5, 24)])
def test_images_of_impossible_sizes(size: tuple[object, object]) -> None:
    with pytest.raises(UsamError, match="32 x 24"):
        region_to_mask(box(original_width=size[0], original_height=size[1]), HW)


@pytest.mark.parametrize(("rx", "ry", "turn"), [(30, 10, 0), (30, 10, 35), (5, 40, 120), (200, 200, 10), (1, 1, 0)])
def test_an_ellipse_is_drawn_in_its_own_box_just_as_on_the_whole_image(rx: float, ry: float, turn: float) -> None:
    value = {"x": 40, "y": 60, "radiusX": rx, "radiusY": ry, "rotation": turn}
    mask = region_to_mask({"type": "ellipse", "value": value}, HW)
    ys, xs = np.mgrid[0 : HW[0], 0 : HW[1]] + 0.5
    dx, dy = xs - 0.4 * HW[1], ys - 0.6 * HW[0]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    along, across = (dx * cos + dy * sin) / (rx * HW[1] / 100), (dy * cos - dx * sin) / (ry * HW[0] / 100)
    assert (mask == (along**2 + across**2 <= 1)).all()


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([HUGE, -HUGE, 10**30, -1, 2**31, 2**63]),
    st.floats(), st.text(max_size=8), st.sampled_from(["\ud800", "\0", "x" * 100, "rle", "data:image/png;base64,AAAA"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
GEOMETRY = "x y width height rotation points rle format imageDataURL radiusX radiusY"
LABELS = "labels brushlabels rectanglelabels"
TYPES = "rectangle polygon ellipse brush bitmask keypoint rectanglelabels polygonlabels brushlabels keypointlabels"
VALUES = st.dictionaries(
    st.sampled_from(f"{GEOMETRY} {LABELS}".split()),
    JSON | st.lists(st.lists(SCALARS, min_size=2, max_size=2), min_size=3, max_size=5) | st.floats(0, 100),
)
KINDS = st.sampled_from(f"{TYPES} labels".split())
REGIONS = st.fixed_dictionaries(
    {"type": KINDS | JSON, "value": VALUES | JSON},
    optional={
        name: JSON
        for name in ("id", "to_name", "original_width", "original_height", "image_rotation", "is_positive", "from_name")
    },
)


@settings(max_examples=80, deadline=None)
@given(st.lists(REGIONS | JSON, max_size=4))
def test_whatever_is_stored_nothing_but_our_own_errors_leaves(result: list[Any]) -> None:
    drawn, left_out = drawn_masks(result)
    assert len({one.name for one in drawn}) == len(drawn)
    json.dumps([one.name for one in drawn] + left_out).encode()
    for one in drawn:
        try:
            mask = region_to_mask(one.region, HW)
        except UsamError:
            continue
        assert mask.shape == HW
    regions = [region for region in result if isinstance(region, dict)]
    prompts_from_task([{"result": result}], HW, image_name="img")
    with contextlib.suppress(UsamError):
        prompts_from_context(regions, HW)


def test_what_was_chosen_about_a_region_is_not_its_label() -> None:
    """`Choices` with `perRegion` came first under the same id, and the object was learnt as "blurred"."""
    chosen = {"id": "r", "to_name": "img", "type": "choices", "value": {"choices": ["blurred"]}}
    unlabelled = box("r", "A") | {"type": "rectangle"}
    unlabelled["value"] = {name: part for name, part in unlabelled["value"].items() if name != "rectanglelabels"}
    label = {"id": "r", "to_name": "img", "type": "labels", "value": {"labels": ["cat"]}}
    for result, known in (([chosen, unlabelled], None), ([chosen, unlabelled, label], "cat")):
        assert [one.label for one in drawn_masks(result)[0]] == [known]
        assert [one.label for one in prompts_from_task([{"result": result}], HW)] == [known]


def test_what_is_no_label_costs_no_other_label() -> None:
    region = box()
    for odd in (None, 3, "", {"value": "cat"}, ["cat"]):
        region["value"]["rectanglelabels"] = [odd, "cat", odd, "dog"]
        assert labels_of(region) == ("cat", "dog")
    region["value"] |= {"rectanglelabels": [None], "labels": ["tree"]}
    assert labels_of(region) == ("tree",), "the labels beside them"
    region["value"] |= {"rectanglelabels": [""], "labels": 7}
    assert labels_of(region) == ()
