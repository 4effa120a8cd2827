"""The measures against their definitions written out, and against cases with a known answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usam.errors import UsamError
from usam.statistics import (
    bootstrap_auc,
    bootstrap_calibration,
    bootstrap_mean,
    bootstrap_pearson,
    calibration_error,
    group_counts,
    pearson,
    pearson_matrix,
    relative_auc,
    reliability,
    replacement_curve,
    share_to_oracle,
)


def area(order: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Area under mean IoU against the share refined, by replacing one object after another."""
    now, means = before.astype(float).copy(), [before.mean()]
    for index in order:
        now[index] = after[index]
        means.append(now.mean())
    return float(np.mean([(left + right) / 2 for left, right in pairwise(means)]))


def sample(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    before = rng.random(count)
    after = np.clip(before + rng.normal(0.15, 0.2, count), 0, 1)
    return after - before + 0.2 * rng.normal(size=count), before, after


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_relative_auc_is_its_definition(seed: int, count: int) -> None:
    measure, before, after = sample(count, seed)
    mine, ideal = (area(np.argsort(-key), before, after) for key in (measure, after - before))
    base, random = before.mean(), (before.mean() + after.mean()) / 2
    assert relative_auc(measure, before, after) == pytest.approx((mine - base) / (ideal - base), rel=1e-6)
    assert share_to_oracle(measure, before, after) == pytest.approx((mine - random) / (ideal - random), rel=1e-6)


def test_ends_of_the_scale() -> None:
    _, before, after = sample()
    gain = after - before
    assert relative_auc(gain, before, after) == pytest.approx(1.0)
    assert share_to_oracle(gain, before, after) == pytest.approx(1.0)
    assert share_to_oracle(np.zeros(60), before, after) == pytest.approx(0.0, abs=1e-12)
    assert share_to_oracle(-gain, before, after) < -0.9
    assert relative_auc(np.zeros(60), before, after) > 0.1


def test_ties_count_as_their_mean_order() -> None:
    measure = np.array([1.0, 0.0, 0.0, 0.0])
    before, after = np.zeros(4), np.array([0.4, 0.8, 0.0, 0.4])
    assert replacement_curve(measure, before, after) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    shuffled = np.array([3, 2, 0, 1])
    assert relative_auc(measure, before, after) == relative_auc(measure[shuffled], before[shuffled], after[shuffled])


def test_where_nothing_can_be_gained_there_is_no_figure() -> None:
    same = np.full(5, 0.5)
    assert np.isnan(relative_auc(np.arange(5.0), same, same))
    assert np.isnan(share_to_oracle(np.arange(5.0), same, same + 0.2))


@pytest.mark.parametrize("broken", [np.ones(4), np.array([1.0, np.nan, 1.0])])
def test_measures_that_do_not_fit_are_refused(broken: np.ndarray) -> None:
    with pytest.raises(UsamError):
        relative_auc(broken, np.zeros(3), np.ones(3))


def test_pearson_is_numpys_and_passes_over_unknowns() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200))
    second += first
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    holed = np.where(np.arange(200) < 20, np.nan, first)
    assert pearson(holed, second) == pytest.approx(np.corrcoef(first[20:], second[20:])[0, 1])
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))
    assert np.isnan(pearson(np.full(3, np.nan), np.arange(3.0)))
    matrix = pearson_matrix({"a": first, "b": second, "c": -first})
    assert matrix[0, 2] == pytest.approx(-1)
    assert (matrix == matrix.T).all()


def test_calibration_error_measures_the_offset() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.random(4_000)
    true = (rng.random(4_000) < predicted).astype(float)
    assert calibration_error(predicted, true) < 0.03
    assert calibration_error(np.clip(predicted * 0.5, 0, 1), true) == pytest.approx(0.25, abs=0.03)
    curve = reliability(predicted, true, bins=10)
    assert curve.count.sum() == 4_000
    assert (np.diff(curve.predicted) > 0).all()


def test_bootstrap_draws_whole_groups() -> None:
    groups = np.repeat(np.arange(30), 4)
    counts = group_counts(groups, 50, seed=0).reshape(50, 30, 4)
    assert (counts == counts[:, :, :1]).all()
    assert (counts[:, :, 0].sum(axis=1) == 30).all()


@pytest.mark.parametrize("tied", [False, True])
def test_bootstrap_of_areas_is_that_of_resampled_rows(tied: bool) -> None:
    measure, before, after = sample(80, seed=3)
    if tied:
        measure = np.round(measure, 1)
    groups = np.arange(80) // 4
    auc, share = bootstrap_auc(measure, before, after, groups, replicates=200, seed=5)
    expected = []
    for counts in group_counts(groups, 200, seed=5):
        rows = np.repeat(np.arange(80), counts)
        expected.append(
            [figure(measure[rows], before[rows], after[rows]) for figure in (relative_auc, share_to_oracle)]
        )
    low, high = np.quantile(expected, [0.025, 0.975], axis=0)
    assert (auc.low, share.low) == pytest.approx(tuple(low), abs=1e-9)
    assert (auc.high, share.high) == pytest.approx(tuple(high), abs=1e-9)
    assert auc.low < auc.value == relative_auc(measure, before, after) < auc.high


def test_bootstrap_of_means_correlations_and_calibration() -> None:
    rng = np.random.default_rng(1)
    groups = np.arange(400) // 4
    predicted = rng.random(400)
    true = np.clip(predicted + 0.1 * rng.normal(size=400) + 0.1 * rng.normal(size=100)[groups], 0, 1)
    options = {"replicates": 300, "seed": 2}
    mean, correlation = bootstrap_mean(true, groups, **options), bootstrap_pearson(predicted, true, groups, **options)
    resampled = [np.repeat(np.arange(400), counts) for counts in group_counts(groups, 300, seed=2)]
    for interval, figure in (
        (mean, lambda rows: true[rows].mean()),
        (correlation, lambda rows: np.corrcoef(predicted[rows], true[rows])[0, 1]),
    ):
        low, high = np.quantile([figure(rows) for rows in resampled], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    # errors shared by the objects of an image widen the interval
    alone = bootstrap_mean(true - predicted, np.arange(400), **options)
    together = bootstrap_mean(true - predicted, groups, **options)
    assert together.high - together.low > 1.2 * (alone.high - alone.low)
    calibration = bootstrap_calibration(predicted, true, groups, **options)
    assert calibration.value == calibration_error(predicted, true)
    assert calibration.low < calibration.high


def test_a_thousand_replicates_of_ten_thousand_objects_are_quick() -> None:
    import time

    measure, before, after = sample(10_000)
    start = time.perf_counter()
    bootstrap_auc(measure, before, after, np.arange(10_000) // 5)
    assert time.perf_counter() - start < 20
