"""Boxes follow their objects, few key frames stand for all of them, and what to look at is the least sure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.usam.small_sam2 import remembering, seeing, set_object_bias
from tests.usam.test_videos import moving_square
from usam.errors import ImageError, PromptError
from usam.masks.overlap import mask_box, paired_iou
from usam.predictor.box_tracks import (
    BoxTrack,
    follow_boxes,
    interpolated,
    key_rows,
    look_first,
    runs,
    steadied,
)
from usam.predictor.memory_tracking import MemoryTracker
from usam.predictor.tracking import LOST_AFTER
from usam.prompts import Prompt
from usam.videos import Frame


class Counting:
    """A patched predictor that counts how often it encodes."""

    def __init__(self, predictor: Any) -> None:
        self._predictor, self.encoded = predictor, 0

    def set_image(self, image: Any) -> None:
        self.encoded += 1
        self._predictor.set_image(image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)


@pytest.fixture(scope="module")
def predictor() -> Any:
    return remembering()


def frames(count: int = 12, first: int = 0) -> Iterator[Frame]:
    for number in range(first, count):
        yield Frame(number, number / 10, moving_square(number))


def square(number: int) -> tuple[int, int, int, int]:
    return (10 + 2 * number, 30, 42 + 2 * number, 62)


def test_two_boxes_are_followed_in_one_pass(predictor: Any) -> None:
    counting: Any = Counting(predictor)
    early, late = follow_boxes(counting, frames(), [(0, square(0)), (4, square(4))])
    assert counting.encoded == 12
    assert (early.first, len(early), late.first, len(late)) == (0, 12, 4, 8)
    assert early.boxes[0].tolist() == list(square(0)), "what was drawn is kept as it is"
    assert paired_iou(early.boxes, [square(number) for number in range(12)]).mean() > 0.75
    assert paired_iou(late.boxes, [square(number) for number in range(4, 12)]).mean() > 0.75
    assert ((early.confidence > 0) & (early.confidence <= 1)).all()


def test_video_memory_follows_boxes_with_one_encoding_a_frame() -> None:
    sam2 = seeing()
    counting: Any = Counting(sam2)
    early, late = follow_boxes(counting, frames(6), [(0, square(0)), (2, square(2))])
    assert counting.encoded == 6
    for track, first in ((early, 0), (late, 2)):
        tracker = MemoryTracker(sam2)
        box = Prompt(np.empty((0, 2)), np.empty(0), square(first))
        seen = [tracker.begin(moving_square(first), box)]
        seen += [tracker.follow(moving_square(number)) for number in range(first + 1, 6)]
        assert track.boxes[0].tolist() == list(square(first))
        assert track.boxes[1:].tolist() == [mask_box(one.mask).tolist() for one in seen[1:]]
        assert track.confidence.tolist() == [float(np.clip(one.iou, 0, 1)) for one in seen]


def test_what_is_out_of_sight_has_no_box_and_is_looked_for_to_the_end() -> None:
    sam2 = seeing()

    def stream() -> Iterator[Frame]:
        for number, frame in enumerate(frames(LOST_AFTER + 4)):
            set_object_bias(5.0 if number in (0, LOST_AFTER + 3) else -5.0, sam2.model)
            yield frame

    (track,) = follow_boxes(sam2, stream(), [(0, square(0))])
    assert track.is_found.tolist() == [True, *[False] * (LOST_AFTER + 2), True]


def test_a_box_behind_the_last_frame_and_one_outside(predictor: Any) -> None:
    with pytest.raises(ImageError, match=r"a video with frame 21, got one that ends before"):
        follow_boxes(predictor, frames(3), [(20, square(0))])
    with pytest.raises(PromptError):
        follow_boxes(predictor, frames(3), [(0, (200, 200, 300, 300))])


def test_what_interpolation_gives_needs_no_key_frame() -> None:
    there = [(2 * n, 10, 2 * n + 30, 40) for n in range(20)]
    back = [(2 * n, 10, 2 * n + 30, 40) for n in range(20, -1, -1)]
    assert key_rows(there) == [0, 19]
    assert key_rows(there + back) == [0, 20, 40]
    assert key_rows(there[:1]) == [0]
    rng = np.random.default_rng(0)
    jumpy = np.array(there, float) + rng.uniform(-4, 4, (20, 4))
    kept = key_rows(jumpy)
    assert len(kept) > 2
    shown = interpolated({row: jumpy[row] for row in kept}, range(20))
    assert paired_iou(shown, jumpy).min() >= 0.95
    assert len(key_rows(jumpy, 0.5)) < len(kept)


def test_between_key_frames_boxes_go_evenly_and_outside_they_stay() -> None:
    shown = interpolated({10: (0, 0, 10, 10), 20: (20, 0, 30, 10)}, [5, 10, 15, 25])
    assert shown[:, 0].tolist() == [0, 0, 10, 20]


def test_stretches_of_a_track_that_is_lost_on_the_way() -> None:
    boxes = np.ones((7, 4))
    boxes[[2, 3, 6]] = np.nan
    track = BoxTrack(5, boxes, np.array([0.9, 0.8, 0, 0, 0.7, 0.6, 0]))
    assert runs(track) == [(0, 1), (4, 5)]
    assert look_first(track, apart=1, most=9) == [7, 11, 10, 9, 6], "of frames without it the first is looked at"
    assert look_first(track, apart=4) == [7, 11]


def test_a_trembling_box_is_steadied_but_its_ends_stay() -> None:
    boxes = np.array([(0, 0, 10, 10), (3, 0, 13, 10), (0, 0, 10, 10), (3, 0, 13, 10), (np.nan,) * 4, (9, 0, 19, 10)])
    steady = steadied(BoxTrack(0, boxes, np.ones(6))).boxes
    assert steady[:4, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(steady[4]).all()
    assert steady[5, 0] == 9, "frames on the other side of a gap are no neighbours"


def test_another_numbering_repeats_or_leaves_out_frames() -> None:
    track = BoxTrack(10, np.arange(16.0).reshape(4, 4), np.array([1, 0.9, 0.8, 0.7]))
    other = track.at([10, 10, 11, 13], first=21)
    assert (other.first, other.confidence.tolist(), other.boxes[3, 0]) == (21, [1, 1, 0.9, 0.7], 12)
