"""Curves over labels, and how many labels one strategy needs against another."""

from __future__ import annotations

import numpy as np
import pytest

from usam.errors import SimulationError
from usam.research.simulation.campaign import Point
from usam.research.simulation.curves import Curve, curve, labels_needed, mean_interval, saving


def points(*pairs: tuple[int, float]) -> list[Point]:
    return [Point(n, n, 0, 2 * n, 3.0 * n, iou, 0.1, 0.5, 0.6, 0.0, 0.0, 0) for n, iou in pairs]


def test_a_curve_is_straight_between_points_and_ends_where_the_shortest_does() -> None:
    found = curve("x", [points((0, 0.5), (10, 0.7)), points((0, 0.5), (20, 0.9))], "machine_iou", places=3)
    assert found.at.tolist() == [0, 5, 10]
    assert found.values == pytest.approx(np.array([[0.5, 0.6, 0.7], [0.5, 0.6, 0.7]]))
    assert found.half_width == pytest.approx([0, 0, 0])
    assert curve("x", [points((0, 0.5), (10, 0.7))], "machine_iou", "seconds").at[-1] == 30
    with pytest.raises(SimulationError, match="campaign"):
        curve("x", [], "machine_iou")


def test_intervals_are_of_the_change() -> None:
    found = curve("x", [points((0, 0.2), (10, 0.3)), points((0, 0.8), (10, 0.9))], "machine_iou", places=2)
    assert found.mean == pytest.approx([0.5, 0.6])
    assert found.half_width == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("values", "goal", "needed"),
    [
        ([0.0, 1.0, 2.0], 1.5, 15.0),
        ([0.0, 2.0, 1.0, 3.0], 1.5, 22.5),
        ([2.0, 2.0], 1.0, 0.0),
        ([0.0, 1.0], 2.0, float("inf")),
    ],
)
def test_labels_needed_are_those_from_which_on_it_stays(values: list[float], goal: float, needed: float) -> None:
    assert labels_needed(np.array(values), 10.0 * np.arange(len(values)), goal) == pytest.approx(needed)


def test_a_strategy_twice_as_fast_needs_half() -> None:
    at = np.linspace(0, 100, 101)
    rng = np.random.default_rng(0)
    noise = 0.002 * rng.normal(size=(2, 6, 101)).cumsum(axis=2) / 10
    fast = Curve("a", "machine_iou", at, np.minimum(at / 40, 1) + noise[0])
    slow = Curve("b", "machine_iou", at, np.minimum(at / 80, 1) + noise[1])
    found = saving(fast, slow, np.full(6, 0.9))
    assert found.labels == pytest.approx(36, abs=2)
    assert found.ratio.value == pytest.approx(0.5, abs=0.05)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high < 0.7
    with pytest.raises(SimulationError, match="same seeds"):
        saving(fast, slow, np.ones(3))


def test_one_seed_has_no_interval() -> None:
    assert np.isnan(mean_interval([0.5]).low)
    found = mean_interval([0.4, 0.6])
    assert found.low < 0.4 < 0.6 < found.high
