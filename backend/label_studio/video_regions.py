"""Boxes on videos: what a person drew on one frame, and what was followed from there, as Label Studio keeps both.

A region is a sequence of key frames; between two the editor interpolates, after the last the box stays. A key frame
that is not `enabled` is the last frame on which the box is seen. Places are percent of the frame, frames count from 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS, RegionError, reason_of
from backend.label_studio.records import Json
from backend.label_studio.video_config import VideoConfig
from usam.predictor.box_tracks import BoxTrack, key_rows, look_first, runs, steadied

FloatArray = npt.NDArray[np.float64]
TYPE = "videorectangle"
SEEK_S = 0.002
"""The editor seeks this far behind a frame's beginning."""
APART_S = 1.0
"""Seconds between two frames that are named to be looked at."""
MOST_COUNTED = 1_000_000
MOST_NAME = 60
MOST_NUMBER = 1e6
"""Largest percentage or angle that is taken: what is beyond lies nowhere near a frame."""
_SIDES = ("x", "y", "width", "height")


@dataclass(frozen=True)
class DrawnBox:
    """A box that somebody drew on one frame alone: the region's `id`, `frame` from 1, corners in percent, `labels`, and
    the video's number of frames as the editor counted them (0: it did not say). `until`: the last frame on which the
    box is meant to be seen, 0 for the video's last."""

    id: str
    frame: int
    corners: tuple[float, float, float, float]
    rotation: float = 0.0
    """Degrees about its first corner; the upright box around it is followed."""
    labels: tuple[str, ...] = ()
    frames: int = 0
    until: int = 0
    control: str = ""
    """The control it was drawn with, where a configuration has several; empty for its first."""

    def pixels(self, width: int, height: int) -> FloatArray:
        """(4,) x0, y0, x1, y1 in pixels, cut at the frame's edges. Raises `RegionError` where nothing is left."""
        frame = np.array([width, height, width, height])
        x0, y0, x1, y1 = np.array(self.corners) / 100 * frame
        cos, sin = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
        spots = np.array(
            [(x0 + dx * cos - dy * sin, y0 + dx * sin + dy * cos) for dx in (0, x1 - x0) for dy in (0, y1 - y0)]
        )
        box = np.clip(np.concatenate([spots.min(0), spots.max(0)]), 0, frame)
        if (box[2:] - box[:2] < 1).any():
            raise RegionError("a box of at least a pixel within the frame", f"region {self.id}", "draw it again")
        return np.asarray(box)

    def key(self, *more: object) -> str:
        """A name for what follows from this box and `more`, the same whenever they are the same."""
        facts = repr((self.id, self.frame, self.corners, self.rotation, self.labels, self.until, *more))
        return "follow" + hashlib.sha256(facts.encode()).hexdigest()[:16]


def drawn_boxes(result: Iterable[Mapping[str, Any]], config: VideoConfig) -> tuple[list[DrawnBox], list[str]]:
    """The boxes of an annotation or draft with a single key frame, which wait to be followed, and why others are none:
    one that cannot be read harms no other."""
    found, left_out = [], []
    for region in result:
        try:
            box = _drawn(region, config)
        except ITEM_ERRORS as error:
            left_out.append(f"region {str(region.get('id'))[:MOST_NAME]}: {reason_of(error)}")
        else:
            found += [box] if box is not None else []
    return found, left_out


def _drawn(region: Mapping[str, Any], config: VideoConfig) -> DrawnBox | None:
    """A region that waits to be followed; None for another. Raises `RegionError` for a box that is none."""
    keys = _keys(region, config.video, *config.others)
    if str(region.get("type", "")).lower() != TYPE or not keys:
        return None
    keys = sorted(keys, key=lambda one: _number(one, "frame"))
    is_bounded = len(keys) == 2 and keys[0].get("enabled", True) and not keys[1].get("enabled", True)
    if len(keys) != 1 and not is_bounded:
        return None
    if region["to_name"] != config.video:
        raise RegionError(
            f"a box on the video {config.video!r}", f"one on {region['to_name']!r}", "make it the first of the videos"
        )
    frame, until = int(_number(keys[0], "frame")), int(_number(keys[1], "frame")) if is_bounded else 0
    if not 1 <= frame <= MOST_COUNTED:
        raise RegionError(f"a key frame from 1 to {MOST_COUNTED}", str(frame), "draw the box again")
    labels, frames = region["value"].get("labels"), region["value"].get("framesCount")
    return DrawnBox(
        id=str(region.get("id", ""))[:MOST_NAME],
        frame=frame,
        corners=_corners(keys[0]),
        rotation=_number(keys[0], "rotation") if keys[0].get("rotation") else 0.0,
        labels=tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else (),
        frames=frames if isinstance(frames, int) and frame <= frames <= MOST_COUNTED else 0,
        until=until,
        control=region["from_name"] if isinstance(region.get("from_name"), str) else "",
    )


def is_finished(result: Iterable[Mapping[str, Any]], config: VideoConfig) -> bool:
    """Whether an annotation has a box on the video with several key frames: it was followed, or corrected, already."""
    return any(len(_keys(region, config.video)) > 1 for region in result)


def _keys(region: Mapping[str, Any], *videos: str) -> list[Mapping[str, Any]]:
    """The key frames of a region on one of these videos, as they come; none of what is no such region."""
    value = region.get("value")
    if region.get("to_name") not in videos or not isinstance(value, dict):
        return []
    sequence = value.get("sequence")
    return [one for one in sequence if isinstance(one, dict)] if isinstance(sequence, list) else []


def file_frames(count: int, rate: float, file_rate: float, file_count: int) -> list[int]:
    """For each of the editor's frames 1 to `count`, the frame of the file from 0 that its player shows.

    >>> file_frames(4, 25.0, 25.0, 100), file_frames(4, 24.0, 12.0, 100)
    ([0, 1, 2, 3], [0, 0, 1, 1])
    """
    shown = [math.floor(((number - 1) / rate + SEEK_S) * file_rate + 1e-6) for number in range(1, count + 1)]
    return [min(number, file_count - 1) for number in shown]


def to_region(
    track: BoxTrack,
    drawn: DrawnBox,
    config: VideoConfig,
    size: tuple[int, int],
    count: int,
    rate: float,
    identity: str,
) -> Json:
    """A followed object as a region: `track` in the editor's frames, in pixels of a video of `size` (width, height) and
    `count` frames at `rate` a second. Its id is `identity`; its meta says what to look at first and how sure the model
    is of every frame from the drawn one on."""
    look = look_first(track, max(round(APART_S * rate), 1))
    least = float(track.confidence.min())
    lost = int((~track.is_found).sum())
    text = [f"Followed from frame {drawn.frame}; least sure {least:.2f}"]
    if look:
        text.append("Look at these frames first: " + ", ".join(map(str, look)))
    if lost:
        text.append(f"Not found on {lost} of {len(track)} frames")
    value: Json = {
        "framesCount": count,
        "duration": round(count / rate, 3),
        "sequence": sequence_of(track, size, rate, last=count),
    }
    if drawn.labels:
        value["labels"] = list(drawn.labels)
    return {
        "id": identity,
        "from_name": drawn.control or config.box,
        "to_name": config.video,
        "type": TYPE,
        "origin": "prediction",
        "score": round(float(track.confidence.mean()), 4),
        "meta": {
            "text": [". ".join(text)],
            "look_at": look,
            "confidence": [round(float(one), 2) for one in track.confidence],
        },
        "value": value,
    }


def sequence_of(track: BoxTrack, size: tuple[int, int], rate: float, last: int) -> list[Json]:
    """The key frames of a track, as few as the rest needs; the last of each stretch on which the object was found is
    not enabled, unless it is the video's `last`."""
    scale = np.tile(np.asarray(size, np.float64), 2)
    percent = np.clip(steadied(track).boxes / scale, 0, 1) * 100
    sequence = []
    for begin, end in runs(track):
        for row in (begin + offset for offset in key_rows(percent[begin : end + 1])):
            x0, y0, x1, y1 = percent[row]
            sequence.append(
                {
                    "frame": track.first + row,
                    "enabled": not (row == end and track.first + row < last),
                    "rotation": 0,
                    **dict(zip(_SIDES, (round(float(n), 4) for n in (x0, y0, x1 - x0, y1 - y0)), strict=True)),
                    "time": round((track.first + row) / rate, 4),
                    "confidence": round(float(track.confidence[row]), 4),
                }
            )
    return sequence


def boxes_of(sequence: Sequence[Mapping[str, Any]], count: int) -> FloatArray:
    """(count, 4) boxes x0, y0, x1, y1 in percent on the editor's frames 1 to `count`, as it shows them between key
    frames; NaN where it shows none."""
    boxes = np.full((count, 4), np.nan)
    keys = sorted(sequence, key=lambda one: _number(one, "frame"))
    for number, key in enumerate(keys):
        first, box = int(_number(key, "frame")), np.array(_corners(key))
        if not key.get("enabled", True):
            boxes[first - 1] = box
            continue
        after = keys[number + 1] if number + 1 < len(keys) else None
        end = int(_number(after, "frame")) if after is not None else count + 1
        target = np.array(_corners(after)) if after is not None else box
        for frame in range(first, min(end, count + 1)):
            boxes[frame - 1] = box + (target - box) * (frame - first) / max(end - first, 1)
    return boxes


def _number(item: Mapping[str, Any], name: str) -> float:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST_NUMBER <= value <= MOST_NUMBER:
        raise RegionError(f"a number as {name} of a key frame", repr(value)[:40], "draw the box again")
    return float(value)


def _corners(key: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = (_number(key, name) for name in _SIDES)
    return x, y, x + width, y + height
