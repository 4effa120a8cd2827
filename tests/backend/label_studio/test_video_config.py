"""What a configuration offers for videos: boxes, labels, and how the editor counts frames."""

from __future__ import annotations

import pytest

from backend.errors import LabelConfigError
from backend.label_studio.config import parse_config
from backend.label_studio.video_config import parse_video_config, takes_masks, takes_video_boxes

VIDEO = """<View>
  <Labels name="labels" toName="video"><Label value="car"/><Label value="dog"/></Labels>
  <Video name="video" value="$video" frameRate="25"/>
  <VideoRectangle name="box" toName="video"/>
</View>"""
IMAGE = """<Image name="img" value="$image"/><BrushLabels name="brush" toName="img"><Label value="A"/></BrushLabels>"""


def test_boxes_labels_and_the_video() -> None:
    config = parse_video_config(VIDEO)
    assert (config.box, config.video, config.labels) == ("box", "video", ("car", "dog"))
    assert config.address({"video": " /data/upload/1/a.mp4 "}) == "/data/upload/1/a.mp4"
    with pytest.raises(LabelConfigError, match=r"the address of a video in the task's data under `video`, got nothing"):
        config.address({"image": "a.png"})


@pytest.mark.parametrize(
    ("value", "data", "rate"),
    [
        ("25", {}, 25.0),
        ("0.5", {}, 2.0),
        ("", {}, 24.0),
        ("fast", {}, 24.0),
        ("-1", {}, 24.0),
        ("$fps", {"fps": 12.5}, 12.5),
        ("$fps", {"fps": "30"}, 30.0),
        ("$fps", {}, 24.0),
        ("$fps", {"fps": float("nan")}, 24.0),
    ],
)
def test_frames_a_second_as_the_editor_counts_them(value: str, data: dict[str, object], rate: float) -> None:
    assert parse_video_config(VIDEO.replace('"25"', f'"{value}"')).rate(data) == rate


def test_without_a_rate_and_in_other_letters() -> None:
    assert parse_video_config(VIDEO.replace(' frameRate="25"', "")).rate({}) == 24.0
    assert parse_video_config(VIDEO.replace("frameRate", "framerate")).rate({}) == 25.0


def test_what_offers_no_boxes_on_a_video() -> None:
    choices = '<View><Video name="v" value="$v"/><Choices name="c" toName="v"><Choice value="a"/></Choices></View>'
    with pytest.raises(LabelConfigError, match="a Video tag with VideoRectangle on it, got Choices"):
        parse_video_config(choices)
    with pytest.raises(LabelConfigError, match=r'a Video tag with value="\$name"'):
        parse_video_config(VIDEO.replace("$video", "street.mp4"))


def test_who_asks_for_masks_on_a_video_is_told_what_there_is() -> None:
    with pytest.raises(LabelConfigError, match="boxes on videos are followed by usam-backend track"):
        parse_config(VIDEO)


def test_images_and_videos_in_one_project() -> None:
    both = VIDEO.replace("</View>", IMAGE + "</View>")
    assert [takes_video_boxes(VIDEO), takes_masks(VIDEO)] == [True, False]
    assert [takes_video_boxes(both), takes_masks(both)] == [True, True]
    assert [takes_video_boxes(f"<View>{IMAGE}</View>"), takes_video_boxes("no XML")] == [False, False]
