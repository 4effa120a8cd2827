"""Boxes are measured as the editor shows them, beside a box that nobody follows."""

from __future__ import annotations

import numpy as np
import pytest

from bench.video import Sequence
from bench.video_boxes import as_shown, rows_of
from tests.usam.test_videos import moving_square
from usam.masks.overlap import mask_box
from usam.predictor.box_tracks import BoxTrack


def scene() -> Sequence:
    return [(moving_square(number), moving_square(number)[..., 0] > 100) for number in range(13)]


def perfect(frames: Sequence) -> BoxTrack:
    boxes = np.array([mask_box(mask) for _, mask in frames], np.float64)
    return BoxTrack(0, boxes, np.ones(len(boxes)))


def test_what_is_followed_is_better_than_what_stays() -> None:
    rows = {row.figure.partition(", ")[2]: row for row in rows_of(perfect, "squares", [scene()])}
    assert rows["box IoU, one box followed"].value > 0.98
    assert rows["box IoU, two boxes interpolated"].value == 1.0
    assert rows["box IoU, one box left where it is"].value == pytest.approx(
        np.mean([(32 - 2 * n) / (32 + 2 * n) for n in range(1, 13)])
    )
    assert rows["box IoU, followed against left"].value > 0.3
    assert rows["share of key frames"].value == pytest.approx(2 / 13)


def test_where_the_object_is_lost_nothing_is_shown() -> None:
    track = perfect(scene())
    track.boxes[5:8] = np.nan
    shown, keys = as_shown(track)
    assert (shown[5:8] == 0).all()
    assert keys == 4
