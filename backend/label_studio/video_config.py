"""What a labelling configuration offers for videos: the video itself, the control for boxes, and the labels.

Label Studio keeps a box on a video as a region of `VideoRectangle`, with the label of a `Labels` control merged into
it. It counts frames from 1, at the rate that the configuration says, whatever the file's own: `frame n` is what the
player shows at `(n - 1) / rate` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backend.errors import LabelConfigError
from backend.label_studio.config import parse_config
from backend.label_studio.config_xml import interface_of
from backend.label_studio.task_values import task_value

USUAL_RATE = 24.0
"""Frames a second where the configuration does not say."""


@dataclass(frozen=True)
class VideoConfig:
    """A configuration seen from its video: `box` is the control for boxes, `video` the tag it is drawn on, `source`
    that tag's value, such as `$video`, and `labels` what a box may be called."""

    box: str
    video: str
    source: str
    labels: tuple[str, ...]
    frame_rate: str = ""
    """The video tag's `frameRate`: a number, or a value of the task such as `$fps`."""
    others: tuple[str, ...] = ()
    """Other videos that boxes can be drawn on: they are not followed there."""

    def address(self, data: Mapping[str, Any]) -> str:
        """Where a task's video is. Raises `LabelConfigError` where the task has none."""
        value = task_value(self.source, data)
        if not isinstance(value, str) or not value.strip():
            raise LabelConfigError(
                f"the address of a video in the task's data under `{self.source.removeprefix('$')}`",
                "nothing" if value in (None, "") else type(value).__name__,
                "check the Video tag's value against the imported tasks",
            )
        return value.strip()

    def rate(self, data: Mapping[str, Any]) -> float:
        """Frames a second as the editor counts them in this task: below 1 are seconds a frame, and nonsense counts as
        24."""
        value = task_value(self.frame_rate, data) if "$" in self.frame_rate else self.frame_rate
        try:
            number = float(value)
        except (TypeError, ValueError):
            return USUAL_RATE
        if not math.isfinite(number) or number <= 0:
            return USUAL_RATE
        return number if number >= 1 else 1 / number


@lru_cache(maxsize=64)
def parse_video_config(label_config: str) -> VideoConfig:
    """What a labelling configuration offers for boxes on a video.

    Raises `LabelConfigError` where it is not XML, or has no video with a control for boxes.
    """
    interface = interface_of(label_config)
    videos = {one.name: one for one in interface.objects if one.tag == "Video"}
    boxes = [(c, name) for c in interface.controls if c.tag == "VideoRectangle" for name in c.to_name if name in videos]
    if not boxes:
        raise LabelConfigError(
            "a Video tag with VideoRectangle on it",
            ", ".join(sorted({c.tag for c in interface.controls})) or "no controls",
            "add them to the labelling configuration",
        )
    control, name = boxes[0]
    attributes = {str(key).lower(): str(value) for key, value in videos[name].attr.items()}
    if not attributes.get("value", "").startswith("$"):
        raise LabelConfigError('a Video tag with value="$name"', repr(attributes.get("value", "")), "correct its value")
    labels = [label for c in interface.controls if c.tag == "Labels" and name in c.to_name for label in c.labels or ()]
    return VideoConfig(
        control.name,
        name,
        attributes["value"],
        tuple(dict.fromkeys(labels)),
        attributes.get("framerate", ""),
        tuple(dict.fromkeys(other for _, other in boxes if other != name)),
    )


def takes_video_boxes(label_config: str) -> bool:
    """Whether boxes can be drawn on a video."""
    try:
        parse_video_config(label_config)
    except LabelConfigError:
        return False
    return True


def takes_masks(label_config: str) -> bool:
    """Whether masks can be drawn on an image."""
    try:
        parse_config(label_config)
    except LabelConfigError:
        return False
    return True
