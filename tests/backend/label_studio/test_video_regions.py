"""What was drawn on one frame is read, and what was followed is written, as the editor counts and interpolates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from label_studio_sdk._extensions.label_studio_tools.postprocessing.video import extract_key_frames

from backend.errors import RegionError
from backend.label_studio.video_config import parse_video_config
from backend.label_studio.video_regions import (
    DrawnBox,
    boxes_of,
    drawn_boxes,
    file_frames,
    is_finished,
    sequence_of,
    to_region,
)
from tests.backend.label_studio.test_video_config import VIDEO
from usam.predictor.box_tracks import BoxTrack

CONFIG = parse_video_config(VIDEO)


def key(frame: int, x: float = 10, enabled: bool = True, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": enabled, "x": x, "y": 20, "width": 30, "height": 40, "rotation": 0, **more}


def region(*sequence: Any, name: str = "r1", to: str = "video", kind: str = "videorectangle") -> dict[str, Any]:
    value = {"sequence": list(sequence), "framesCount": 50, "duration": 2.0, "labels": ["car"]}
    return {"id": name, "from_name": "box", "to_name": to, "type": kind, "value": value}


def test_boxes_on_a_single_frame_wait_to_be_followed() -> None:
    result = [
        region(key(3)),
        region(key(1), key(9), name="followed already"),
        region(key(5), key(20, enabled=False), name="bounded"),
        region(key(1), to="other video"),
        region(key(1), kind="timelinelabels"),
        {"id": "no value", "type": "videorectangle", "to_name": "video"},
    ]
    (one, bounded), left_out = drawn_boxes(result, CONFIG)
    assert left_out == []
    assert one == DrawnBox("r1", 3, (10, 20, 40, 60), 0.0, ("car",), 50, 0, "box")
    assert (bounded.frame, bounded.until) == (5, 20)
    assert is_finished(result, CONFIG)
    assert not is_finished([region(key(3))], CONFIG)


BAD = [key(0), key(3, x=float("nan")), {"frame": 3}, key(3) | {"width": "wide"}, key(10**9), key(2, x=10**400)]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:60])
def test_a_box_that_is_none_is_a_sentence_and_harms_no_other(bad: dict[str, Any]) -> None:
    boxes, (reason,) = drawn_boxes([region(bad, name="bad"), region(key(3))], CONFIG)
    assert [one.id for one in boxes] == ["r1"]
    assert reason.startswith("region bad: expected a ")
    assert reason.endswith("; draw the box again")


def test_a_box_keeps_its_control_and_one_on_another_video_is_said() -> None:
    more = '<Video name="rear" value="$rear"/><VideoRectangle name="people" toName="video"/>'
    more += '<VideoRectangle name="behind" toName="rear"/>'
    config = parse_video_config(VIDEO.replace("</View>", more + "</View>"))
    drawn = region(key(1)) | {"from_name": "people"}
    (one,), (reason,) = drawn_boxes([drawn, region(key(1), to="rear", name="r2")], config)
    assert "region r2: expected a box on the video 'video', got one on 'rear'" in reason
    track = BoxTrack(1, np.array([[0.0, 0, 10, 10]] * 2), np.ones(2))
    assert to_region(track, one, config, (100, 100), 2, 10.0, "id")["from_name"] == "people"


def test_what_is_no_sequence_is_no_box() -> None:
    for sequence in (5, True, "x", {}, [5], None):
        bad = region()
        bad["value"]["sequence"] = sequence
        assert drawn_boxes([bad], CONFIG) == ([], [])
        assert not is_finished([bad], CONFIG)


def test_corners_in_pixels_are_cut_at_the_edge_and_a_turned_box_gets_one_around_it() -> None:
    assert DrawnBox("a", 1, (-10, 50, 50, 120)).pixels(200, 100).tolist() == [0, 50, 100, 100]
    # a square of 40 pixels, turned by 90 degrees about its corner at (100, 20)
    turned = DrawnBox("a", 1, (50, 20, 70, 60), rotation=90.0)
    assert turned.pixels(200, 100).round(6).tolist() == [60, 20, 100, 60]
    with pytest.raises(RegionError, match="within the frame"):
        DrawnBox("outside", 1, (120, 0, 130, 10)).pixels(200, 100)


def test_a_name_changes_with_whatever_changes_the_answer() -> None:
    box = DrawnBox("a", 1, (0, 0, 10, 10))
    names = {
        box.key("v.mp4", "v1"),
        box.key("w.mp4", "v1"),
        box.key("v.mp4", "v2"),
        DrawnBox("a", 2, (0, 0, 10, 10)).key("v.mp4", "v1"),
        DrawnBox("a", 1, (0, 0, 10, 11)).key("v.mp4", "v1"),
    }
    assert len(names) == 5
    assert box.key("v.mp4", "v1") == DrawnBox("a", 1, (0, 0, 10, 10), frames=9).key("v.mp4", "v1")


def test_frames_of_the_editor_and_of_the_file() -> None:
    assert file_frames(3, 25.0, 25.0, 100) == [0, 1, 2]
    assert file_frames(4, 24.0, 48.0, 100) == [0, 2, 4, 6]
    assert file_frames(5, 25.0, 12.5, 100) == [0, 0, 1, 1, 2]
    assert file_frames(4, 25.0, 25.0, 3) == [0, 1, 2, 2], "the player stays on the last frame"
    odd = file_frames(3000, 29.97, 29.97, 3000)
    assert odd == list(range(3000)), "no frame is missed for a rounding error"


def track(first: int = 3, count: int = 30, lost: tuple[int, ...] = ()) -> BoxTrack:
    boxes = np.array([(20.0 + 2 * n, 10, 60 + 2 * n, 50) for n in range(count)])
    confidence = np.linspace(0.9, 0.6, count)
    boxes[list(lost)], confidence[list(lost)] = np.nan, 0.0
    return BoxTrack(first, boxes, confidence)


def test_a_sequence_is_read_as_it_was_followed() -> None:
    sequence = sequence_of(track(), (200, 100), 25.0, last=32)
    assert [(one["frame"], one["enabled"]) for one in sequence] == [(3, True), (32, True)]
    assert (sequence[0]["x"], sequence[0]["width"]) == (10, 20)
    assert sequence[0]["time"] == 3 / 25
    boxes = boxes_of(sequence, 32)
    assert np.isnan(boxes[:2]).all()
    assert np.allclose(boxes[2:] * [2, 1, 2, 1], track().boxes, atol=0.7)


def test_where_the_object_is_lost_no_box_is_shown() -> None:
    lost = track(lost=(10, 11, 12))
    sequence = sequence_of(lost, (200, 100), 25.0, last=40)
    assert [(one["frame"], one["enabled"]) for one in sequence] == [(3, True), (12, False), (16, True), (32, False)]
    boxes = boxes_of(sequence, 40)
    assert [number for number in range(1, 41) if np.isfinite(boxes[number - 1]).all()] == [
        *range(3, 13),
        *range(16, 33),
    ]


def test_label_studio_itself_interpolates_alike() -> None:
    sequence = sequence_of(track(lost=(10, 11, 12)), (200, 100), 25.0, last=40)
    (exported,) = extract_key_frames([region(*sequence)])
    theirs = {one["frame"]: one for one in exported["value"]["sequence"]}
    ours = boxes_of(sequence, 40)
    shown = [number for number in range(1, 41) if np.isfinite(ours[number - 1]).all()]
    assert sorted(theirs) == shown
    assert np.allclose([ours[number - 1][0] for number in shown], [theirs[number]["x"] for number in shown])


def test_a_region_says_what_to_look_at_first_and_how_sure_each_frame_is() -> None:
    drawn = DrawnBox("r1", 3, (10, 10, 30, 50), 0.0, ("car",), 40)
    made = to_region(track(lost=(28, 29)), drawn, CONFIG, (200, 100), 40, 25.0, "name")
    assert (made["id"], made["from_name"], made["to_name"], made["type"]) == ("name", "box", "video", "videorectangle")
    assert made["value"]["labels"] == ["car"]
    assert (made["value"]["framesCount"], made["value"]["duration"]) == (40, 1.6)
    assert len(made["meta"]["confidence"]) == 30
    assert made["meta"]["look_at"] == [31, 6]
    assert made["meta"]["text"] == [
        "Followed from frame 3; least sure 0.00. Look at these frames first: 31, 6. Not found on 2 of 30 frames"
    ]
    assert 0 < made["score"] < 1
    assert made["value"]["sequence"][0]["confidence"] == 0.9
