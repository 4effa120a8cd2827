"""Configurations with several images, controls and sources of labels: nothing becomes silently something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.errors import LabelConfigError
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.prompts import prompts_from_context
from backend.label_studio.regions import ScoredMask, masks_to_regions, validated

HW = (48, 64)
TWO_IMAGES = """<View>
  <Image name="left" value="$a"/><Image name="right" value="$b"/>
  <BrushLabels name="bl" toName="left"><Label value="thing"/></BrushLabels>
  <KeyPointLabels name="pl" toName="left" smart="true"><Label value="thing"/></KeyPointLabels>
  <PolygonLabels name="pr" toName="right"><Label value="other"/></PolygonLabels>
  <KeyPointLabels name="kr" toName="right" smart="true"><Label value="other"/></KeyPointLabels>
  <Number name="task_gap" toName="right" perRegion="true"/></View>"""


def config(controls: str, image: str = "$image") -> LabelConfig:
    return parse_config(f'<View><Image name="img" value="{image}"/>{controls}</View>')


def square() -> ScoredMask:
    mask = np.zeros(HW, bool)
    mask[8:40, 16:48] = True
    return ScoredMask(mask, 0.8, {"task_gap": 0.1})


def sent(controls: LabelConfig, label: str | None, data: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    one = square()
    result = masks_to_regions([ScoredMask(one.mask, one.iou, one.gaps, label)], controls, data=data)
    return validated(result, 0.5, controls)


def click(to_name: str, kind: str = "keypointlabels", name: str = "k1", **value: object) -> dict[str, Any]:
    return {"id": name, "to_name": to_name, "type": kind, "value": {"x": 50, "y": 50, **value}}


# several images


def test_a_region_says_which_image_and_controls_are_meant() -> None:
    controls = parse_config(TWO_IMAGES)
    right = controls.for_result([click("right")])
    assert right.image_value({"a": "left.jpg", "b": "right.jpg"}) == "right.jpg"
    assert {(one["from_name"], one["to_name"]) for one in sent(right, "other")} == {
        ("pr", "right"),
        ("task_gap", "right"),
    }
    left = controls.for_result([click("left")])
    assert left.image_value({"a": "left.jpg", "b": "right.jpg"}) == "left.jpg"
    assert [(one["from_name"], one["to_name"]) for one in sent(left, "thing")] == [("bl", "left")]
    assert [control.name for control in right.smart] == ["kr"]
    assert [view.image_name for view in controls.images] == ["left", "right"]


def test_a_region_that_names_no_image_means_the_first() -> None:
    controls = parse_config(TWO_IMAGES)
    assert controls.for_result([{"type": "keypointlabels"}]).image_name == controls.image_name == "left"


@pytest.mark.parametrize("names", [["left", "right"], ["middle"], [3]])
def test_regions_on_several_or_unknown_images_are_refused(names: list[Any]) -> None:
    with pytest.raises(LabelConfigError, match="image"):
        parse_config(TWO_IMAGES).for_result([click(name) for name in names])


def test_a_control_on_two_images_serves_both() -> None:
    both = parse_config(
        '<View><Image name="a" value="$a"/><Image name="b" value="$b"/>'
        '<BrushLabels name="brush" toName="a,b"><Label value="x"/></BrushLabels></View>'
    )
    assert [one["to_name"] for view in both.images for one in sent(view, "x")] == ["a", "b"]


# labels


TWO_CONTROLS = """<BrushLabels name="animals" toName="img"><Label value="cat"/></BrushLabels>
  <BrushLabels name="plants" toName="img"><Label value="tree"/></BrushLabels>
  <PolygonLabels name="things" toName="img"><Label value="car"/><Label value="tree"/></PolygonLabels>
  <KeyPointLabels name="point" toName="img"><Label value="tree"/></KeyPointLabels>"""


@pytest.mark.parametrize(
    ("label", "control", "type_"),
    [("tree", "plants", "brushlabels"), ("cat", "animals", "brushlabels"), ("car", "things", "polygonlabels")],
)
def test_a_label_goes_to_the_control_that_has_it(label: str, control: str, type_: str) -> None:
    (region,) = sent(config(TWO_CONTROLS), label)
    assert (region["from_name"], region["type"], region["value"][type_]) == (control, type_, [label])


@pytest.mark.parametrize("label", ["bus", None, ""])
def test_what_nobody_offers_is_said_and_not_replaced(label: str | None) -> None:
    (region,) = sent(config(TWO_CONTROLS), label)
    assert region["value"][region["type"]] == []
    assert "please choose" in region["meta"]["text"][-1]


def test_aliases_are_written_as_the_editor_writes_them() -> None:
    controls = config(
        '<BrushLabels name="b" toName="img"><Label value="Cat" alias="c"/><Label value="d"/></BrushLabels>'
    )
    assert [sent(controls, label)[0]["value"]["brushlabels"] for label in ("c", "Cat", "d")] == [["c"], ["c"], ["d"]]


def test_a_click_s_control_may_write_a_label_otherwise_than_the_one_for_masks() -> None:
    """`c`, by which the points write Cat, was offered by no control for masks, and the mask went without a label."""
    points = '<KeyPointLabels name="k" toName="img"><Label value="Cat" alias="c"/></KeyPointLabels>'
    masks = '<BrushLabels name="b" toName="img"><Label value="Cat"/><Label value="d"/></BrushLabels>'
    assert sent(config(points + masks), "c")[0]["value"]["brushlabels"] == ["Cat"]
    aliased = masks.replace('"Cat"', '"Cat" alias="cat-1"')
    assert sent(config(points + aliased), "c")[0]["value"]["brushlabels"] == ["cat-1"]
    other = '<RectangleLabels name="r" toName="img"><Label value="d" alias="c"/></RectangleLabels>'
    (region,) = sent(config(points + masks + other.replace("toName", "smart='true' toName")), "c")
    assert (region["from_name"], region["value"]["rectanglelabels"]) == ("r", ["c"]), (
        "who offers it as it is goes first"
    )


def test_labels_that_a_task_brings() -> None:
    controls = config(
        '<BrushLabels name="fixed" toName="img"><Label value="a"/><Label value="b"/></BrushLabels>'
        '<BrushLabels name="own" toName="img" value="$meta.classes"/>'
    )
    data = {"meta": {"classes": [{"value": "x", "children": [{"value": "y", "alias": "yy"}]}, "no", None]}}
    assert [(one["from_name"], one["value"]["brushlabels"]) for one in sent(controls, "x", data)] == [("own", ["x"])]
    assert sent(controls, "y", data)[0]["value"]["brushlabels"] == ["yy"]
    assert sent(controls, "a", data)[0]["from_name"] == "fixed"
    assert sent(controls, "z", data)[0]["value"]["brushlabels"] == []
    assert sent(controls, "z")[0]["value"]["brushlabels"] == ["z"]


def test_labels_that_a_task_brings_beside_those_of_the_configuration() -> None:
    controls = config('<BrushLabels name="b" toName="img" value="$classes"><Label value="own"/></BrushLabels>')
    data = {"classes": [{"value": "theirs"}]}
    for label in ("own", "theirs"):
        (region,) = sent(controls, label, data)
        assert region["value"]["brushlabels"] == [label]
    (region,) = sent(controls, "nobodys", data)
    assert region["value"]["brushlabels"] == []


def test_a_declaration_of_xml_is_passed_over_and_half_a_sign_is_no_address() -> None:
    declared = parse_config(
        '<?xml version="1.0" encoding="utf-8"?>\n<View><Image name="img" value="$image"/>'
        '<Brush name="b" toName="img"/></View>'
    )
    assert declared.image_value({"image": " a "}) == "a"
    with pytest.raises(LabelConfigError, match="surrogate"):
        declared.image_value({"image": "http://host/\ud800"})


GEOMETRY = {
    "Brush": {"format", "rle"},
    "Bitmask": {"imageDataURL"},
    "Polygon": {"points", "closed"},
    "Rectangle": {"x", "y", "width", "height", "rotation"},
}


@pytest.mark.parametrize("tag", GEOMETRY)
def test_generic_labels_are_a_second_result_under_the_same_id(tag: str) -> None:
    controls = config(
        '<Labels name="labels" toName="img"><Label value="thing"/><Label value="other"/></Labels>'
        f'<{tag} name="shape" toName="img"/><KeyPoint name="point" toName="img" smart="true"/>'
    )
    context = [click("img", "keypoint"), click("img", "labels", labels=["other"])]
    (prompt,) = prompts_from_context(context, HW)
    assert prompt.label == "other"
    shape, label = sent(controls, prompt.label)
    assert shape["id"] == label["id"]
    assert (shape["from_name"], shape["type"], set(shape["value"])) == ("shape", tag.lower(), GEOMETRY[tag])
    assert (label["from_name"], label["type"]) == ("labels", "labels")
    assert label["value"] == shape["value"] | {"labels": ["other"]}
    (alone,) = sent(controls, None)
    assert alone["type"] == tag.lower()


# where clicks are heard


@pytest.mark.parametrize(
    ("controls", "heard"),
    [
        ('<KeyPointLabels name="k" toName="img" smart="true"><Label value="a"/></KeyPointLabels>', ["k"]),
        ('<KeyPointLabels name="k" toName="img"><Label value="a"/></KeyPointLabels>', ["out", "k"]),
        ('<KeyPointLabels name="k" toName="img" smart="false"><Label value="a"/></KeyPointLabels>', ["out"]),
        ('<KeyPoint name="k" toName="img" smartOnly="true"/>', ["k"]),
    ],
)
def test_controls_send_prompts_unless_told_otherwise(controls: str, heard: list[str]) -> None:
    parsed = config(f'<BrushLabels name="out" toName="img"><Label value="a"/></BrushLabels>{controls}')
    assert [control.name for control in parsed.smart] == heard


# where the image is


@pytest.mark.parametrize(
    ("value", "data", "address"),
    [
        ("$image", {"image": " a.jpg "}, "a.jpg"),
        ("$photos[1].url", {"photos": [{"url": "x"}, {"url": "y"}]}, "y"),
        ("$photos.1.url", {"photos": [{"url": "x"}, {"url": "y"}]}, "y"),
        ("$a.b.c", {"a": {"b": {"c": "z"}}}, "z"),
        ("$a.b", {"a.b": "dotted", "a": {"b": "nested"}}, "dotted"),
        ("https://host/$folder/1.jpg", {"folder": "f"}, "https://host/f/1.jpg"),
        ("/data/$n[0]/$m", {"n": [7], "m": "b.png"}, "/data/7/b.png"),
        ("$my-image", {"my-image": "a.jpg"}, "a.jpg"),
        ("$bild-ä", {"bild-ä": "a.jpg"}, "a.jpg"),
    ],
)
def test_the_image_is_where_the_editor_looks_for_it(value: str, data: dict[str, Any], address: str) -> None:
    controls = config('<Brush name="b" toName="img"/>', value)
    assert controls.image_value(data) == address


@pytest.mark.parametrize(
    "data", [{}, {"photos": []}, {"photos": [{}, {"url": 3}]}, {"photos": "x"}, {"photos": [{"url": "x"}, None]}]
)
def test_a_path_that_leads_nowhere_is_said(data: dict[str, Any]) -> None:
    with pytest.raises(LabelConfigError, match=r"photos\[1\].url"):
        config('<Brush name="b" toName="img"/>', "$photos[1].url").image_value(data)


def test_a_repeater_is_refused_with_a_way_out() -> None:
    with pytest.raises(LabelConfigError, match=r"Repeater.*write out"):
        parse_config(
            '<View><Repeater on="$pages" indexFlag="{{idx}}"><Image name="page_{{idx}}" value="$pages[{{idx}}].url"/>'
            '<BrushLabels name="b_{{idx}}" toName="page_{{idx}}"><Label value="x"/></BrushLabels></Repeater></View>'
        )


def test_of_two_generic_labels_each_takes_its_own() -> None:
    """The second of them was never looked at: `tree` became `cat`, the only label of the first."""
    config = (
        '<View><Image name="img" value="$image"/><Labels name="animals" toName="img"><Label value="cat"/></Labels>'
        '<Labels name="plants" toName="img"><Label value="tree"/></Labels><Brush name="b" toName="img"/></View>'
    )
    controls = parse_config(config)
    assert controls.labels == ["cat", "tree"]
    for label, source in (("cat", "animals"), ("tree", "plants")):
        placement = controls.place(label)
        assert placement.output.source is not None
        assert (placement.output.name, placement.output.source.name, placement.label) == ("b", source, label)
        assert placement.note == ""
    assert controls.place("stone").label is None


def test_an_image_tag_of_a_list_is_refused_also_beside_a_value() -> None:
    text = '<View><Image name="img" value="$image" valueList="$all"/><Brush name="b" toName="img"/></View>'
    with pytest.raises(LabelConfigError, match=r"valueList.*use one image per task"):
        parse_config(text)
