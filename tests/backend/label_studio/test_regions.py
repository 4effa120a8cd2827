"""Configurations, shapes and regions, on small pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.errors import LabelConfigError, RegionError
from backend.label_studio.config import parse_config
from backend.label_studio.regions import ScoredMask, masks_to_regions, region_to_mask, validated
from tests.backend.label_studio.drawn import HW, box, item
from usam.errors import MaskError, UsamError
from usam.masks import encode_rle, iou

GAPS = {"task_gap": 0.12, "prompt_gap": 0.03, "model_gap": -0.01}


def config(output: str = "BrushLabels", extra: str = "", labels: str = '<Label value="A"/><Label value="B"/>') -> str:
    return f"""<View><Image name="img" value="$image" zoom="true"/>
      <{output} name="out" toName="img">{labels}</{output}>
      <KeyPointLabels name="kp" toName="img" smart="true"><Label value="A"/><Label value="B"/></KeyPointLabels>
      {extra}</View>"""


def square(hole: bool = False) -> npt.NDArray[np.bool_]:
    mask = np.zeros(HW, bool)
    mask[8:40, 16:48] = True
    if hole:
        mask[20:28, 28:36] = False
    return mask


# labelling configurations


@pytest.mark.parametrize(
    ("tag", "kind", "type_"),
    [
        ("BrushLabels", "brush", "brushlabels"),
        ("BitmaskLabels", "bitmask", "bitmasklabels"),
        ("PolygonLabels", "polygon", "polygonlabels"),
        ("RectangleLabels", "rectangle", "rectanglelabels"),
    ],
)
def test_output_follows_the_configuration(tag: str, kind: str, type_: str) -> None:
    controls = parse_config(config(tag))
    assert (controls.output.kind, controls.output.type, controls.output.label_key) == (kind, type_, type_)
    assert controls.output.labels == ("A", "B")
    assert [smart.name for smart in controls.smart] == ["kp"]
    assert (controls.image_name, controls.image_key) == ("img", "image")


def test_smart_rectangles_prompt_and_polygons_receive() -> None:
    text = config("RectangleLabels").replace('name="out"', 'name="out" smart="true"')
    both = text.replace("</View>", '<PolygonLabels name="poly" toName="img"><Label value="A"/></PolygonLabels></View>')
    assert parse_config(both).output.name == "poly"
    assert parse_config(text).output.name == "out"


def test_smart_may_be_said_on_a_label() -> None:
    text = (
        config()
        .replace(' smart="true"', "")
        .replace(
            '<KeyPointLabels name="kp" toName="img"><Label value="A"',
            '<KeyPointLabels name="kp" toName="img"><Label value="A" smart="true"',
        )
    )
    assert [smart.name for smart in parse_config(text).smart] == ["kp"]


def test_configurations_are_parsed_once() -> None:
    assert parse_config(config()) is parse_config(config())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<View>",
        '<View><Text name="t" value="$t"/></View>',
        '<View><Image name="img" value="$image"/></View>',
        '<View><Image name="img" valueList="$images"/><Brush name="b" toName="img"/></View>',
        '<View><Text name="t" value="$t"/><BrushLabels name="b" toName="t"><Label value="A"/></BrushLabels></View>',
        '<!DOCTYPE x [<!ENTITY a "aa">]><View>&a;</View>',
    ],
)
def test_unusable_configurations(text: str) -> None:
    with pytest.raises(LabelConfigError):
        parse_config(text)


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": ["a"]}, {"image": " "}])
def test_task_without_its_image(data: dict[str, object]) -> None:
    with pytest.raises(LabelConfigError, match="image"):
        parse_config(config()).image_value(data)


# regions


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels"])
@pytest.mark.parametrize("hole", [False, True])
def test_mask_survives_the_way_there_and_back(tag: str, hole: bool) -> None:
    controls = parse_config(config(tag))
    result = masks_to_regions([ScoredMask(square(hole), 0.8, GAPS, "B")], controls, tolerance=0)
    region = result[0]
    assert region["value"][controls.output.label_key] == ["B"]
    assert (region["score"], region["type"]) == (0.8, tag.lower())
    (text,) = region["meta"]["text"]
    assert text.startswith("predicted IoU 0.80, task gap 0.12, prompt gap 0.03, model gap -0.01")
    back = region_to_mask(json.loads(json.dumps(region)), HW)
    wanted = square(hole and tag != "RectangleLabels")
    assert iou(back, wanted) == 1
    if tag == "PolygonLabels" and hole:
        assert "; 1 hole, joined to the outline by a line" in text
    assert validated(result, 0.8, controls) is result


def test_an_object_in_parts_is_one_polygon_and_far_specks_go() -> None:
    mask = square(hole=True)
    mask[2:20, 52:60] = True
    speck = mask.copy()
    speck[43:48, 0:5] = True  # 2 % of the mask, and farther away than it is long
    controls = parse_config(config("PolygonLabels"))
    (region,) = masks_to_regions([ScoredMask(speck, 0.5, label="B")], controls, tolerance=0)
    assert region["meta"]["text"] == [
        "predicted IoU 0.50; 2 parts, joined by a line; 1 hole, joined to the outline by a line"
    ], "one text, since the editor puts nothing between several"
    assert (region_to_mask(region, HW) == mask).all()


def test_a_rectangle_is_not_drawn_around_far_specks() -> None:
    speck = square()
    speck[43:48, 0:5] = True
    (region,) = masks_to_regions([ScoredMask(speck, 0.5, label="B")], parse_config(config("RectangleLabels")))
    assert (region_to_mask(region, HW) == square()).all()


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels"])
def test_one_object_is_one_region_however_many_parts_it_has(tag: str) -> None:
    mask = np.zeros(HW, bool)
    mask[4:44:8, 4:60] = True
    controls = parse_config(config(tag))
    result = masks_to_regions([ScoredMask(mask, 0.5, label="A")] * 20, controls)
    assert len({region["id"] for region in result}) == len(result) == 20


def test_bitmask_is_black_on_transparent() -> None:
    controls = parse_config(config("BitmaskLabels"))
    url = masks_to_regions([ScoredMask(square(), 0.5, label="A")], controls)[0]["value"]["imageDataURL"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")
    pixels = np.asarray(image)
    assert (pixels[..., 3] == np.where(square(), 255, 0)).all()
    assert not pixels[square()][:, :3].any()


def test_gaps_go_into_controls_of_their_name() -> None:
    extra = (
        '<Number name="task_gap" toName="img" perRegion="true"/>'
        '<TextArea name="predicted_iou" toName="img" perRegion="true"/>'
        '<Number name="model_gap" toName="img"/><Number name="weight" toName="img"/>'
    )
    controls = parse_config(config(extra=extra))
    masks = [ScoredMask(square(), 0.8, GAPS, "A"), ScoredMask(square(True), 0.6, {**GAPS, "model_gap": 0.2}, "B")]
    result = validated(masks_to_regions(masks, controls), 0.7, controls)
    by_name = [(one["from_name"], one["value"]) for one in result if one["from_name"] != "out"]
    assert by_name == [
        ("task_gap", {"number": 0.12}),
        ("predicted_iou", {"text": ["0.8000"]}),
        ("task_gap", {"number": 0.12}),
        ("predicted_iou", {"text": ["0.6000"]}),
        ("model_gap", {"number": 0.2}),
    ]
    assert result[1]["id"] == result[0]["id"]
    assert result[3]["id"] != result[0]["id"]


def test_a_label_that_is_not_known_is_never_guessed_among_several() -> None:
    controls = parse_config(config())
    masks = [ScoredMask(square(), 0.5, label=label) for label in ("B", "Z", None)]
    offered, missed, untold = masks_to_regions(masks, controls)
    assert offered["value"]["brushlabels"] == ["B"]
    assert offered["meta"]["text"] == ["predicted IoU 0.50"]
    for region in (missed, untold):
        assert region["value"]["brushlabels"] == []
        assert "please choose" in region["meta"]["text"][-1]
    assert "'Z'" in missed["meta"]["text"][-1]
    validated([offered, missed, untold], 0.5, controls)


def test_a_setting_gives_the_first_label_and_says_so() -> None:
    (region,) = masks_to_regions([ScoredMask(square(), 0.5)], parse_config(config()), unknown_label="first")
    assert region["value"]["brushlabels"] == ["A"]
    assert "please check" in region["meta"]["text"][-1]


def test_the_only_label_there_is_needs_no_telling() -> None:
    only = parse_config(config(labels='<Label value="only"/>'))
    untold, missed = masks_to_regions([ScoredMask(square(), 0.5, label=label) for label in (None, "Z")], only)
    assert untold["value"]["brushlabels"] == missed["value"]["brushlabels"] == ["only"]
    assert untold["meta"]["text"] == ["predicted IoU 0.50"]
    assert "'Z'" in missed["meta"]["text"][-1]


def test_a_learned_label_says_how_sure_it_is() -> None:
    (region,) = masks_to_regions([ScoredMask(square(), 0.5, label="B", label_score=0.91)], parse_config(config()))
    assert region["value"]["brushlabels"] == ["B"]
    assert region["meta"]["text"][0].endswith("; label by what was learnt, 0.91 sure")


def test_control_without_labels() -> None:
    controls = parse_config(config("Brush", labels=""))
    region = masks_to_regions([ScoredMask(square(), 0.5, label="A")], controls)[0]
    assert (region["type"], set(region["value"])) == ("brush", {"format", "rle"})
    validated([region], 0.5, controls)


def test_empty_masks_make_no_region() -> None:
    assert masks_to_regions([ScoredMask(np.zeros(HW, bool), 0.5)], parse_config(config())) == []


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(RegionError, match="finite"):
        masks_to_regions([ScoredMask(square(), float("nan"), label="A")], parse_config(config()))


@pytest.mark.parametrize(
    "change",
    [{"from_name": "none"}, {"type": "polygonlabels"}, {"value": {"rle": "x"}}, {"score": 2.0}],
)
def test_invalid_predictions_do_not_leave(change: dict[str, object]) -> None:
    controls = parse_config(config())
    region = masks_to_regions([ScoredMask(square(), 0.5, label="A")], controls)[0] | change
    with pytest.raises(RegionError):
        validated([region], 0.5, controls)


@pytest.mark.parametrize("rle", [[1, 256], [1, -1], [1, 2.5], []])
def test_a_mask_that_is_no_bytes_does_not_leave(rle: list[float]) -> None:
    controls = parse_config(config())
    region = masks_to_regions([ScoredMask(square(), 0.5, label="A")], controls)[0]
    assert validated([region], 0.5, controls)[0]["value"]["rle"] == region["value"]["rle"]
    with pytest.raises(RegionError):
        validated([region | {"value": region["value"] | {"rle": rle}}], 0.5, controls)


def test_the_same_id_twice_does_not_leave() -> None:
    controls = parse_config(config())
    region = masks_to_regions([ScoredMask(square(), 0.5, label="A")], controls)[0]
    with pytest.raises(RegionError, match="unique"):
        validated([region, region], 0.5, controls)


def test_partial_alpha_counts_from_half() -> None:
    alpha = np.where(square(), 130, 0).astype(np.uint8)
    alpha[0, :10] = 100
    region = item("brushlabels", {"format": "rle", "rle": encode_rle(alpha), "brushlabels": ["A"]})
    assert (region_to_mask(region, HW) == square()).all()


@pytest.mark.parametrize(
    "region",
    [
        item("keypointlabels", {"x": 1, "y": 1}),
        item("polygonlabels", {"points": [[0, 0], [1, 1]]}),
        item("polygonlabels", {"points": [[0, 0], [1, 1], [2]]}),
        item("rectanglelabels", {"x": 0, "y": 0, "width": 0, "height": 5}),
        item("ellipselabels", {"x": 0, "y": 0, "radiusX": 0, "radiusY": 5}),
        item("bitmasklabels", {"imageDataURL": "data:text/plain,x"}),
        item("bitmasklabels", {"imageDataURL": "data:image/png;base64,AAAA"}),
        item("brushlabels", {"rle": [255] * 20}),
        {"type": "brushlabels", "value": None},
    ],
)
def test_regions_that_cannot_be_read(region: dict[str, object]) -> None:
    with pytest.raises(UsamError):
        region_to_mask(region, HW)


def test_bitmask_of_another_size_is_refused_before_it_is_decoded() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (3000, 3000)).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    with pytest.raises(RegionError):
        region_to_mask(item("bitmasklabels", {"imageDataURL": url}), HW)


def test_rectangle_turns_about_its_upper_left_corner() -> None:
    region = box(50, 50, 25, 25)
    region["value"]["rotation"] = 90  # type: ignore[index]
    rows, columns = np.nonzero(region_to_mask(region, HW))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 31, 24, 39)


@pytest.mark.shared
def test_recorded_prediction_is_read(shared: Path) -> None:
    recorded = json.loads((shared / "label_studio" / "samples" / "15_prediction_segmentation.json").read_text())
    rectangle, polygon, brush = recorded["result"]
    assert region_to_mask(rectangle, HW).sum() == 4
    assert region_to_mask(polygon, HW).sum() <= 1
    with pytest.raises(MaskError, match="96 bytes"):  # recorded with a code of another size
        region_to_mask(brush, HW)


@pytest.mark.parametrize("turn", [0, 20, 45, 90, 133, 270])
def test_an_ellipse_is_drawn_in_its_own_box_as_it_would_be_in_the_whole(turn: float) -> None:
    import math

    hw = (600, 900)
    value = {"x": 30, "y": 96, "radiusX": 20, "radiusY": 7, "rotation": turn}
    mask = region_to_mask({"type": "ellipse", "value": value}, hw)
    ys, xs = np.mgrid[0 : hw[0], 0 : hw[1]] + 0.5
    dx, dy, radians = xs - 270, ys - 576, math.radians(turn)
    along = (dx * math.cos(radians) + dy * math.sin(radians)) / 180
    across = (dy * math.cos(radians) - dx * math.sin(radians)) / 42
    assert np.array_equal(mask, along**2 + across**2 <= 1)
    assert mask.any()


def test_a_large_ellipse_takes_little_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    region = {"type": "ellipse", "value": {"x": 50, "y": 50, "radiusX": 45, "radiusY": 45, "rotation": 10}}
    assert region_to_mask(region, (6000, 6000)).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 6000 * 6000
