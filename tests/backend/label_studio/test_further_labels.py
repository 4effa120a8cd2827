"""A click with several labels: each goes where the editor would write it, or is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.label_studio.config import parse_config
from backend.label_studio.further_labels import place_labels
from backend.label_studio.prompts import prompts_from_context, prompts_from_task
from backend.label_studio.regions import ScoredMask, masks_to_regions, validated
from backend.label_studio.shapes import drawn_masks
from tests.backend.label_studio.drawn import HW, box, item, point


def config(controls: str) -> str:
    return f'<View><Image name="img" value="$image"/>{controls}</View>'


def labels(*names: str) -> str:
    return "".join(f'<Label value="{name}"/>' for name in names)


def brush(choice: str = "single") -> str:
    return f'<BrushLabels name="b" toName="img" choice="{choice}">{labels("cat", "dog")}</BrushLabels>'


STATES = f'<Labels name="state" toName="img">{labels("asleep", "awake")}</Labels>'
PLANTS = f'<PolygonLabels name="plants" toName="img">{labels("tree")}</PolygonLabels>'
BARE = '<Brush name="b" toName="img"/>'
DYNAMIC = '<Labels name="own" toName="img" value="$names"/>'


@pytest.mark.parametrize(
    ("controls", "told", "written", "said"),
    [
        (brush("multiple"), ["cat", "dog"], {"b": ["cat", "dog"]}, ""),
        (brush(), ["cat", "dog"], {"b": ["cat"]}, "also labelled 'dog', which is not taken beside its label here"),
        (brush() + STATES, ["cat", "asleep"], {"b": ["cat"], "state": ["asleep"]}, ""),
        (brush() + STATES, ["asleep", "cat"], {"b": ["cat"], "state": ["asleep"]}, ""),
        (brush() + STATES, ["asleep"], {"b": [], "state": ["asleep"]}, "no control for masks offers the label"),
        (brush() + STATES, ["cat", "asleep", "awake"], {"b": ["cat"], "state": ["asleep"]}, "also labelled 'awake'"),
        (brush() + PLANTS, ["cat", "tree"], {"b": ["cat"]}, "also labelled 'tree'"),
        (brush() + PLANTS, ["tree", "cat"], {"plants": ["tree"]}, "also labelled 'cat'"),
        (brush(), ["stone", "dog"], {"b": ["dog"]}, "also labelled 'stone'"),
        (brush(), ["stone", "bone"], {"b": []}, "no control for masks offers the label 'stone'"),
        (brush() + DYNAMIC, ["dog", "red"], {"b": ["dog"], "own": ["red"]}, ""),
        (brush() + DYNAMIC, ["dog", "blue"], {"b": ["dog"]}, "also labelled 'blue'"),
        (
            BARE + STATES + DYNAMIC,
            ["awake", "red"],
            {"state": ["awake"], "own": ["red"]},
            "",
        ),
    ],
)
def test_each_label_goes_where_the_editor_writes_it_or_is_said(
    controls: str, told: list[str], written: dict[str, list[str]], said: str
) -> None:
    mask = np.zeros(HW, bool)
    mask[10:30, 10:40] = True
    parsed, data = parse_config(config(controls)), {"image": "a.png", "names": [{"value": "red"}]}
    result = masks_to_regions([ScoredMask(mask, 0.9, label=told[0], further_labels=tuple(told[1:]))], parsed, data=data)
    assert len({region["id"] for region in validated(result, 0.9, parsed)}) == 1
    found = {r["from_name"]: r["value"][r["type"]] for r in result if r["type"] in r["value"]}
    assert found == written
    assert said in (notes := result[0]["meta"]["text"][0].partition("; ")[2])
    assert bool(said) == bool(notes)


def test_an_alias_beside_the_label_is_written_as_its_control_writes_it() -> None:
    controls = parse_config(
        config(f'{brush()}<Labels name="s" toName="img"><Label value="asleep" alias="z"/></Labels>')
    )
    assert [list(v) for v in place_labels(["cat", "asleep"], controls).written.values()] == [["cat"], ["z"]]


def beside(region: dict[str, Any], name: str, kind: str, *found: str) -> dict[str, Any]:
    value = {key: part for key, part in region["value"].items() if not key.endswith("labels")}
    return region | {"from_name": name, "type": kind, "value": value | {kind: list(found)}}


def test_one_click_under_several_controls_is_one_object_with_all_labels() -> None:
    click = point(25, 50, "cat") | {"id": "k"}
    context = [click, beside(click, "kp2", "keypointlabels", "tree"), beside(click, "state", "labels", "asleep")]
    (prompt,) = prompts_from_context(context, HW)
    assert prompt.labels == ("cat", "tree", "asleep")
    assert prompt.prompt.points.tolist() == [[16, 24]]
    other = point(30, 50, "cat") | {"id": "l"}
    assert [len(one.prompt.points) for one in prompts_from_context([*context, other], HW)] == [2]


def test_a_box_under_two_controls_of_another_model_is_one_object() -> None:
    first = box(10, 10, 20, 20, "cat") | {"id": "x"}
    (prompt,) = prompts_from_task([{"result": [first, beside(first, "r2", "rectanglelabels", "dog")]}], HW)
    assert prompt.labels == ("cat", "dog")


def test_a_click_in_a_box_adds_its_label_to_those_of_the_box() -> None:
    (prompt,) = prompts_from_context([box(0, 0, 50, 50, "cat"), point(25, 25, "dog")], HW)
    assert (prompt.label, prompt.labels) == ("cat", ("cat", "dog"))


def test_labels_that_teach_nothing_are_said() -> None:
    region = item("rectanglelabels", {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["cat", "dog"]})
    (drawn,), left_out = drawn_masks([region | {"id": "a"}, beside(region | {"id": "a"}, "s", "labels", "asleep")])
    assert drawn.label == "cat"
    assert left_out == ["region a: also labelled 'dog' and 'asleep'; the first label, 'cat', is used"]


@pytest.mark.parametrize("told_by", ["b", "b2"])
def test_of_two_controls_that_offer_a_label_the_clicked_one_gets_it(told_by: str) -> None:
    two = brush() + brush().replace('name="b"', 'name="b2"')
    (prompt,) = prompts_from_context([point(25, 25, "cat") | {"from_name": told_by}], HW)
    assert place_labels(prompt.labels, parse_config(config(two)), told_by=prompt.told_by).output.name == told_by


def test_of_two_generic_controls_that_offer_a_label_the_one_that_told_it_gets_it() -> None:
    two = BARE + STATES + STATES.replace('name="state"', 'name="other"')
    click = item("keypoint", {"x": 25, "y": 25, "width": 1})
    (prompt,) = prompts_from_context([click, beside(click, "other", "labels", "awake")], HW)
    placement = place_labels(prompt.labels, parse_config(config(two)), told_by=prompt.told_by)
    assert {source.name: labels for source, labels in placement.written.items()} == {"other": ["awake"]}


def test_a_finer_control_goes_before_the_one_that_was_clicked() -> None:
    boxes = '<RectangleLabels name="r" toName="img" smart="true"><Label value="cat"/></RectangleLabels>'
    assert place_labels(["cat"], parse_config(config(brush() + boxes)), told_by="r").output.name == "b"
