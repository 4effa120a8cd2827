"""Budgets hold whatever the gaps; what is acted on is what promises most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usam.active.refinement import Allowance, Cost, Gain, plan_images, plan_objects, threshold_for
from usam.errors import UsamError

GAPS = st.lists(st.floats(-0.5, 0.5, width=16), min_size=0, max_size=60)
BUDGET = st.floats(0, 1)


@given(GAPS, BUDGET)
def test_objects_stay_within_the_budget_and_are_the_highest(gaps: list[float], budget: float) -> None:
    values = np.array(gaps)
    plan = plan_objects(values, budget)
    assert plan.chosen.sum() <= budget * len(values) + 1e-6
    assert plan.share == pytest.approx(plan.chosen.mean() if gaps else 0)
    if plan.chosen.any():
        assert values[plan.chosen].min() == plan.threshold > 0
        assert (values[~plan.chosen] < plan.threshold).all()


def test_a_threshold_is_the_quantile_of_what_is_above_zero() -> None:
    gaps = np.array([0.4, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3, -0.4, -0.5])
    assert threshold_for(gaps, 0.2) == 0.3
    assert threshold_for(gaps, 0.25) == 0.3
    assert threshold_for(gaps, 0.9) == 0.1
    assert threshold_for(gaps, 0.05) == math.inf
    assert threshold_for(np.full(10, 0.2), 0.5) == math.inf, "ties do not break the budget"
    assert threshold_for(np.full(10, 0.2), 1.0) == 0.2


@given(GAPS, BUDGET, st.floats(0, 2), st.floats(0.01, 1), st.integers(1, 9))
@settings(deadline=None)
def test_images_stay_within_the_budget(gaps: list[float], budget: float, encode: float, decode: float, n: int) -> None:
    values, images, cost = np.array(gaps), np.arange(len(gaps)) % n, Cost(encode, decode)
    plan = plan_images(values, images, budget, cost)
    spent = cost.seconds(len(np.unique(images[plan.chosen])), plan.chosen.sum())
    whole = cost.seconds(len(np.unique(images)), len(values))
    assert spent <= budget * whole + 1e-6
    assert plan.share == pytest.approx(spent / whole if whole else 0)
    assert (values[plan.chosen] > 0).all()
    for image in np.unique(images[plan.chosen]):
        assert (plan.chosen == (values > 0))[images == image].all(), "an image is taken as a whole"


def test_an_encoding_is_shared_by_the_objects_of_an_image() -> None:
    gaps = np.array([0.2, 0.2, 0.2, 0.3])
    images = np.array(["many", "many", "many", "one"])
    dear = plan_images(gaps, images, 0.7, Cost(1.0, 0.1))
    assert dear.chosen.tolist() == [True, True, True, False]
    assert dear.share == pytest.approx(1.3 / 2.4)
    free = plan_images(gaps, images, 0.3, Cost(0.0, 0.1))
    assert free.chosen.tolist() == [False, False, False, True]


@pytest.mark.parametrize("budget", [-0.1, 1.1])
def test_budgets_are_shares(budget: float) -> None:
    with pytest.raises(UsamError, match="from 0 to 1"):
        plan_objects(np.zeros(3), budget)
    with pytest.raises(UsamError, match="from 0 to 1"):
        Allowance(budget)


def test_what_cannot_be_planned_is_said() -> None:
    with pytest.raises(UsamError, match="NaN"):
        threshold_for(np.array([0.1, np.nan]), 0.5)
    with pytest.raises(UsamError, match="names"):
        plan_images(np.zeros(3), np.zeros(2), 0.5, Cost(1, 1))
    with pytest.raises(UsamError, match="seconds"):
        Cost(0, 0)


@given(GAPS, BUDGET, st.integers(1, 30), st.integers(0, 10))
def test_an_allowance_never_exceeds_its_budget(gaps: list[float], budget: float, window: int, warm_up: int) -> None:
    allowance = Allowance(budget, window=window, warm_up=warm_up)
    acted = 0
    for count, gap in enumerate(gaps, 1):
        acted += allowance.admits(gap)
        assert acted <= budget * count


def test_an_allowance_takes_the_highest_and_follows_what_comes() -> None:
    rng = np.random.default_rng(0)
    allowance = Allowance(0.25, window=200)
    gaps = rng.uniform(0, 0.3, 2000)
    taken = np.array([allowance.admits(gap) for gap in gaps])
    assert 0.2 < taken.mean() <= 0.25
    assert gaps[taken].mean() > 0.24
    low = allowance.threshold
    for gap in rng.uniform(0.2, 0.5, 400):
        allowance.admits(gap)
    assert allowance.threshold > low
    assert not allowance.admits(math.nan)


def test_a_gain_is_told_only_from_enough_labels() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(20), 3)
    clear = Gain.of(0.1 + rng.normal(0, 0.02, 60), images)
    assert clear.pays is True
    assert clear.low < clear.value < clear.high
    assert Gain.of(-0.1 + rng.normal(0, 0.02, 60), images).pays is False
    assert Gain.of(rng.normal(0, 0.1, 60), images).pays is None
    assert Gain.of(np.full(60, 0.1), np.zeros(60)).pays is None, "one image says nothing"
    none = Gain.of(np.zeros(0), np.zeros(0))
    assert none.pays is None
    assert none.figures() == {"objects": 0, "images": 0}
    assert clear.figures()["images"] == 20
