"""Curves over labels or seconds, with intervals over seeds, and what they say of strategies.

Legend: S seeds, G places of a grid. Intervals are Student's over seeds, 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import SimulationError
from usam.research.simulation.campaign import Point
from usam.statistics import Interval

Float64s = npt.NDArray[np.float64]
QUANTITIES = (
    "machine_iou",
    "project_iou",
    "calibration_error",
    "ranking",
    "accepted_share",
    "violations",
)


@dataclass(frozen=True, eq=False)
class Curve:
    """One quantity of one strategy: `at` (G,) the cost, `values` (S, G), with mean and interval (G,)."""

    strategy: str
    quantity: str
    at: Float64s
    values: Float64s

    @property
    def mean(self) -> Float64s:
        return np.asarray(self.values.mean(axis=0), np.float64)

    @property
    def half_width(self) -> Float64s:
        """Half the interval over seeds of the change since the first place, (G,); NaN with one seed.

        Of the change, since seeds hold out other images: what they have in common before any label says nothing of
        labels.
        """
        return half_width(self.values - self.values[:, :1])


def half_width(values: Float64s) -> Float64s:
    """Half of Student's 95 % interval of the mean over the first axis, (S, ...) -> (...); NaN with one."""
    from scipy.stats import t as student

    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(student.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count), np.float64)


def mean_interval(values: Sequence[float] | Float64s) -> Interval:
    """Mean over seeds with its interval."""
    known = np.asarray(values, np.float64)
    half = float(half_width(known[:, None])[0])
    mean = float(known.mean())
    return Interval(mean, mean - half, mean + half)


def curve(
    strategy: str, campaigns: Sequence[Sequence[Point]], quantity: str, cost: str = "labels", places: int = 21
) -> Curve:
    """A quantity of some seeds' campaigns on a grid of costs that all of them reach, straight between points.

    `cost` is labels, clicks, seconds or images. Raises `SimulationError` without a campaign.
    """
    if not campaigns:
        raise SimulationError("at least one campaign", "none", "ask for one seed or more")
    last = min(float(getattr(points[-1], cost)) for points in campaigns)
    at: Float64s = np.linspace(0.0, last, places, dtype=np.float64)
    values = [
        np.interp(at, [getattr(point, cost) for point in points], [getattr(point, quantity) for point in points])
        for points in campaigns
    ]
    return Curve(strategy, quantity, at, np.stack(values))


def labels_needed(mean: Float64s, at: Float64s, goal: float) -> float:
    """The cost from which on a curve (G,) stays at or above the goal, straight between places; infinity where never."""
    below = np.flatnonzero(mean < goal)
    if not len(below):
        return float(at[0])
    last = int(below[-1])
    if last == len(mean) - 1:
        return float("inf")
    step = (goal - mean[last]) / (mean[last + 1] - mean[last])
    return float(at[last] + step * (at[last + 1] - at[last]))


@dataclass(frozen=True)
class Saving:
    """Labels that a strategy needs for a share of the achievable gain, and as a share of what another needs."""

    labels: float
    against: float
    ratio: Interval


def saving(own: Curve, other: Curve, goals: Float64s, *, replicates: int = 1000, seed: int = 0) -> Saving:
    """Labels needed on the mean curves of two strategies for the mean goal, `goals` (S,) a seed's each.

    The interval of the ratio comes from drawing seeds with replacement, the same ones for both. A draw in which a curve
    never gets there counts as the end of its curve for the other's sake: the ratio errs towards one. Raises
    `SimulationError` where the curves have not the same seeds.
    """
    if own.values.shape[0] != other.values.shape[0] or len(goals) != own.values.shape[0]:
        raise SimulationError("curves of the same seeds", f"{own.values.shape} and {other.values.shape}")
    rng = np.random.default_rng(seed)

    def needed(seeds: npt.NDArray[Any]) -> tuple[float, float]:
        goal = float(goals[seeds].mean())
        return tuple(  # type: ignore[return-value]
            min(labels_needed(one.values[seeds].mean(axis=0), one.at, goal), float(one.at[-1])) for one in (own, other)
        )

    everything = np.arange(len(goals))
    first, second = needed(everything)
    drawn = [needed(rng.integers(len(goals), size=len(goals))) for _ in range(replicates)]
    ratios = np.array([a / max(b, 1.0) for a, b in drawn])
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Saving(first, second, Interval(first / max(second, 1.0), float(low), float(high)))


def table(campaigns: Mapping[str, Sequence[Sequence[Point]]], fields: Sequence[str]) -> list[dict[str, float | str]]:
    """Every point of every campaign as a row, for a CSV."""
    return [
        {"strategy": strategy, "seed": float(seed), **{name: getattr(point, name) for name in fields}}
        for strategy, seeds in campaigns.items()
        for seed, points in enumerate(seeds)
        for point in points
    ]
