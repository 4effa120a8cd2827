"""A promise is withdrawn when masks get worse, hardly ever otherwise, and never judged by other labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, kstest

from tests.usam.risky_masks import risky_masks
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Calibration, Candidates, RiskGuarantee, calibrate
from usam.pseudo_labels.drift import FALSE_ALARM, conformal_p_values, watch

PROMISE = RiskGuarantee(0.7, 0.1, 0.9, per_image=3)


def calibrated(rng: np.random.Generator) -> tuple[Calibration, Candidates]:
    audit = risky_masks(rng, 150)
    return calibrate(audit, risky_masks(rng, 200, labelled=False), PROMISE), audit


def test_without_a_change_promises_are_hardly_ever_withdrawn() -> None:
    """Watched over 100 images, looking after each: the highest wealth ever counts."""
    rng = np.random.default_rng(0)
    runs, alarms = 90, 0
    for _ in range(runs):
        made, audit = calibrated(rng)
        alarms += watch(made, audit, risky_masks(rng, 100, start=1000)).withdrawn
    assert alarms <= binom.ppf(0.999, runs, FALSE_ALARM)


@pytest.mark.parametrize(("worse_by", "images", "power"), [(0.05, 60, 0.9), (0.15, 20, 0.9)])
def test_worse_masks_are_noticed_soon(worse_by: float, images: int, power: float) -> None:
    rng = np.random.default_rng(1)
    runs, alarms = 50, 0
    for _ in range(runs):
        made, audit = calibrated(rng)
        alarms += watch(made, audit, risky_masks(rng, images, start=1000, worse_by=worse_by)).withdrawn
    assert alarms >= power * runs


def test_a_change_after_a_long_quiet_time_is_noticed_too() -> None:
    rng = np.random.default_rng(2)
    made, audit = calibrated(rng)
    quiet, bad = risky_masks(rng, 300, start=1000), risky_masks(rng, 40, start=2000, worse_by=0.15)
    both = Candidates(
        [*quiet.names, *bad.names],
        [*quiet.images, *bad.images],
        np.concatenate([quiet.predicted_iou, bad.predicted_iou]),
        np.concatenate([quiet.task_gap, bad.task_gap]),  # type: ignore[list-item]
        np.concatenate([quiet.true_iou, bad.true_iou]),  # type: ignore[list-item]
        [*quiet.audited, *bad.audited],
    )
    assert not watch(made, audit, quiet).withdrawn
    found = watch(made, audit, both)
    assert found.withdrawn
    assert found.images == 340
    assert found.reason.startswith("withdrawn, ")


def test_failures_alone_withdraw_a_promise() -> None:
    """The prediction errs as before in the mean, but what is accepted fails: only the first game sees it."""
    rng = np.random.default_rng(3)
    made, audit = calibrated(rng)
    incoming = risky_masks(rng, 60, start=1000)
    taken = incoming.accepted(PROMISE, made.threshold)
    assert incoming.true_iou is not None
    moved = np.where(taken, PROMISE.iou - 0.01, incoming.true_iou)
    moved[~taken] += (incoming.true_iou - moved)[taken].sum() / (~taken).sum()
    found = watch(made, audit, replace(incoming, true_iou=moved))
    assert found.withdrawn
    assert found.failed == found.accepted == taken.sum()
    assert "more masks fail than promised" in found.reason


def test_p_values_of_an_unchanged_stream_are_uniform_even_with_ties() -> None:
    rng = np.random.default_rng(4)
    before, incoming = np.round(rng.normal(size=200), 1), np.round(rng.normal(size=2000), 1)
    values = conformal_p_values(before, range(2000), incoming)
    assert kstest(values, "uniform").pvalue > 0.001
    assert (values == conformal_p_values(before, range(2000), incoming)).all()
    high = conformal_p_values(before, ["a", "b"], np.array([np.nan, 9.0]))
    assert high[0] == 0.5
    assert high[1] < 1 / 200


def test_nothing_new_leaves_a_promise_as_it_is() -> None:
    made, audit = calibrated(np.random.default_rng(5))
    found = watch(made, audit, Candidates([], [], np.zeros(0), None, np.zeros(0)))
    assert (found.withdrawn, found.images, found.wealth) == (False, 0, 1.0)
    assert found.reason.startswith("holds: ")


def test_other_labels_than_those_of_the_calibration_are_refused() -> None:
    rng = np.random.default_rng(6)
    made, audit = calibrated(rng)
    with pytest.raises(PseudoLabelError, match="calibrate again"):
        watch(made, risky_masks(rng, 150), audit)
    with pytest.raises(PseudoLabelError, match="true IoU"):
        watch(made, audit, risky_masks(rng, 5, labelled=False))
