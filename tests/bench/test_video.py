"""Following is measured on what was followed, beside a click that knows where the object is."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.video import memory_speed, rows_of
from tests.usam.test_videos import moving_square
from usam.predictor.tracking import TrackedFrame


class Lagging:
    """Always says what was true on the frame before."""

    def __init__(self, masks: dict[bytes, np.ndarray]) -> None:
        self.masks, self.last = masks, np.zeros((96, 96), bool)

    def begin(self, image: Any, prompt: Any) -> TrackedFrame:
        self.last = self.masks[image.tobytes()]
        return TrackedFrame(self.last, 1.0)

    def follow(self, image: Any) -> TrackedFrame:
        before, self.last = self.last, self.masks[image.tobytes()]
        return TrackedFrame(before, 1.0)


def test_what_lags_behind_is_worse_than_a_still_click() -> None:
    frames = [(moving_square(number), moving_square(number)[..., 0] > 100) for number in range(9)]
    tracker: Any = Lagging({image.tobytes(): mask for image, mask in frames})
    followed, still, gained = rows_of(tracker, "squares", [frames])
    assert still.value == 1.0
    assert followed.value == np.float64(30 / 34)
    assert gained.value < 0


def test_the_speed_of_video_memory_is_told_beside_that_of_encoding() -> None:
    followed, encoded = memory_speed(image_size=128)
    assert followed.unit == "frames a second"
    assert followed.value > 0
    assert "random weights, input 128 px" in followed.note
    assert encoded.unit == "share of seconds"
    assert encoded.value > 0
