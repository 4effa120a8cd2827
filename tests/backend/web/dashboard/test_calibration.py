"""Predicted against true IoU: the mask that would be taken, means with intervals, no verdict that chance explains."""

from __future__ import annotations

import numpy as np
import pytest

from backend.store.records import SampleRow
from backend.web.dashboard.calibration import (
    BINS,
    EDGE,
    POINTS_DRAWN,
    SIDE,
    Audited,
    across,
    audited_by,
    calibrated,
    down,
)
from tests.factories import head_set
from usam.checkpoints.registry import weights_of


def audited(count: int, bias: float, noise: float = 0.02) -> Audited:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.4, 0.9, count)
    true = np.clip(predicted - bias + rng.normal(0, noise, count), 0, 1)
    return Audited(predicted, true, np.arange(count) // 2)


def row(task: int, targets: list[float], *, box_only: bool = False, head: str = "iou_nano_s") -> SampleRow:
    rng = np.random.default_rng(task)
    tokens = rng.normal(size=(5, 8)).astype(np.float16)
    return SampleRow(task, "r", weights_of("nano-s"), "t", task, "A", box_only, tokens[0], tokens[1:], {head: targets})


def test_a_model_that_promises_too_much_is_told() -> None:
    found = calibrated(audited(200, 0.1))
    assert found is not None
    assert found.verdict.startswith("On average the predicted IoU is 0.10 higher than the true one (95 % interval")
    assert found.error == pytest.approx(0.1, abs=0.02)
    assert (found.objects, found.images, len(found.bins)) == (200, 100, BINS)
    assert sum(bin.count for bin in found.bins) == 200
    assert all(bin.low <= bin.true <= bin.high for bin in found.bins)
    assert "lower" in calibrated(audited(200, -0.1)).verdict  # type: ignore[union-attr]


def test_what_chance_explains_is_no_verdict() -> None:
    many, few = calibrated(audited(200, 0.0)), calibrated(audited(6, 0.0, 0.3))
    assert many is not None
    assert few is not None
    assert many.verdict.startswith("No error on average that could be told from chance")
    assert "Few audits" not in many.verdict
    assert "Few audits" in few.verdict
    assert len(few.bins) == 1


def test_there_is_nothing_to_show_of_nothing() -> None:
    assert calibrated(Audited(np.zeros(0), np.zeros(0), np.zeros(0))) is None


def test_points_are_drawn_within_a_bound() -> None:
    found = calibrated(audited(3000, 0.0))
    assert found is not None
    assert len(found.points) == POINTS_DRAWN


def test_of_three_masks_the_one_that_would_be_taken_counts() -> None:
    heads = head_set()
    rows = [row(task, [0.1, 0.5, 0.9]) for task in range(30)]
    found = audited_by(heads, "nano-s", rows)
    assert len(found) == 30
    assert set(found.true.round(4)) <= {0.1, 0.5, 0.9}
    assert len(set(found.true)) > 1, "which mask it is, the heads say"
    assert found.images.tolist() == list(range(30))


def test_samples_that_say_no_true_iou_are_left_out() -> None:
    half = [0.5] * 3
    rows = [row(1, half), row(2, half, box_only=True), row(3, half, head="iou_large"), row(4, [np.nan] * 3)]
    assert audited_by(head_set(), "nano-s", rows).images.tolist() == [1]
    assert len(audited_by(head_set(), "nano-s", rows[1:3])) == 0


def test_the_picture_has_its_origin_at_the_lower_left() -> None:
    assert (across(0), down(0)) == (EDGE, SIDE - EDGE)
    assert (across(1), down(1)) == (SIDE, 0)
    assert (across(2), down(-1)) == (across(1), down(0))
