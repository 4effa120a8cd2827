"""What more labels will bring, from what the labels so far have brought.

Legend: P points of a history, S shapes of curve, R draws. Quality is any figure in [0, 1] of which more is better, such
as the mean IoU of the machine's masks on images that were not learnt from.

A learning curve saturates: quality(n) = end - rise * fall(n), fall(0) = 1, fall(infinity) = 0. Nobody knows how it
falls, so S shapes are weighed by how well they explain the history: exponential and power-law ones (Viering and Loog,
arXiv 2103.10948, survey both), each from fast to slow, each under several sizes of noise. `end` and `rise` are linear
in quality and known in closed form given the rest. Answers are read off R draws out of all that, so their intervals
hold what the history does not tell: the shape, the noise, and how far there is still to go. That there
is no rise at all is one of the shapes; a negative one is not, since the gate keeps worse heads from being used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usam.errors import SimulationError
from usam.statistics import Interval

Float64s = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MIN_POINTS = 3
DRAWS = 4000
_NOISE = np.geomspace(0.001, 0.1, 13)
_SCALES = np.geomspace(0.05, 4.0, 12)
"""Labels over which a curve falls, as shares of the longest history; beyond, end and rise cannot be told apart."""
_POWERS = (0.5, 1.0, 2.0)
_FLAT, _FLAT_ODDS = (1e-9, 0.0), 0.01
"""The shape of a curve that does not rise at all, and its odds against all others before any label."""
_PRIOR_END = (0.5, 0.5)
_PRIOR_RISE = (0.0, 0.15)
"""Mean and standard deviation, before any label: a rise of more than 0.3 IoU from relearning heads is unheard of."""


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """A fitted curve: R draws of its end, its rise and its shape. `labels` is where the history stands."""

    labels: int
    points: int
    noise: float
    end: Float64s
    rise: Float64s
    scale: Float64s
    power: Float64s

    def quality(self, labels: float) -> Interval:
        """Expected quality after so many labels, with 90 % interval (of the curve, not of a noisy measurement)."""
        return _interval(self._at(labels))

    def gain(self, more: int) -> Interval:
        """What the next `more` labels are expected to bring, in units of quality, with 90 % interval.

        Raises `SimulationError` where `more` is negative.
        """
        if more < 0:
            raise SimulationError("a number of labels of at least 0", str(more), "ask for the next 100")
        return _interval(self._at(self.labels + more) - self._at(self.labels))

    def labels_for(self, share: float = 0.9) -> Interval:
        """Labels, counted from none, at which `share` of the whole rise is there; median and 90 % interval.

        Raises `SimulationError` where the share is not in (0, 1).
        """
        if not 0.0 < share < 1.0:
            raise SimulationError("a share in (0, 1)", str(share), "0.9 is the usual one")
        needed = np.where(self.rise > 0, _inverse(1.0 - share, self.scale, self.power), 0.0)
        low, middle, high = np.quantile(needed, [0.05, 0.5, 0.95])
        return Interval(float(middle), float(low), float(high))

    @property
    def total_gain(self) -> Interval:
        """What all labels there could be bring over none."""
        return _interval(self.rise)

    def suggestion(self, more: int = 100, worth: float = 0.005) -> str:
        """One sentence for people: what the next labels bring, and whether that is worth it.

        `worth` is the gain in quality below which labels for the sake of the heads are not worth their price.
        """
        gain = self.gain(more)
        said = (
            f"the next {more} labels are expected to bring {100 * gain.value:.1f} points "
            f"(90 %: {100 * gain.low:.1f} to {100 * gain.high:.1f})"
        )
        if gain.high < worth:
            return f"{said}: stop labelling for the sake of the heads"
        if gain.value < worth:
            return f"{said}: probably enough, but these labels cannot rule out more"
        return f"{said}: go on"

    def _at(self, labels: float) -> Float64s:
        return np.asarray(self.end - self.rise * _fall(labels, self.scale, self.power), np.float64)


def fit_curve(labels: Sequence[float], quality: Sequence[float], *, seed: int = 0) -> LearningCurve:
    """A learning curve from a history: quality (P,) in [0, 1] after so many labels (P,), in any order.

    Several measurements at one number of labels may be given each for itself. Raises `SimulationError` with fewer than
    `MIN_POINTS` points at different numbers of labels, where sizes differ or where values are out of range.
    """
    counts, values = np.asarray(labels, np.float64), np.asarray(quality, np.float64)
    if counts.ndim != 1 or counts.shape != values.shape:
        raise SimulationError("a quality for each number of labels", f"{counts.shape} and {values.shape}")
    if len(np.unique(counts)) < MIN_POINTS:
        got = f"{len(np.unique(counts))}"
        raise SimulationError(f"a history of {MIN_POINTS} numbers of labels", got, "label and retrain more")
    if not (np.isfinite(values).all() and np.isfinite(counts).all()) or counts.min() < 0 or not _in_range(values):
        raise SimulationError("labels of at least 0 and qualities in [0, 1]", "values outside", "check the history")
    longest = counts.max()
    shapes = [(scale * longest, power) for scale in _SCALES for power in (0.0, *_POWERS)]
    evidence, means, roots, key = [], [], [], []
    for scale, power in [_FLAT, *shapes]:
        fall = _fall(counts, np.float64(scale), np.float64(power))
        design = np.column_stack([np.ones_like(counts), -fall])
        flat = (scale, power) == _FLAT
        for noise in _NOISE:
            log_evidence, mean, root = _linear(design, values, float(noise), 0.0 if flat else 1.0)
            evidence.append(log_evidence + (np.log(len(shapes) * _FLAT_ODDS) if flat else 0.0))
            means.append(mean)
            roots.append(root)
            key.append((scale, power, noise))
    weights = np.exp(np.array(evidence) - max(evidence))
    rng = np.random.default_rng(seed)
    taken = rng.choice(len(weights), size=4 * DRAWS, p=weights / weights.sum())
    drawn = np.array(means)[taken] + np.einsum("rij,rj->ri", np.array(roots)[taken], rng.normal(size=(len(taken), 2)))
    shape = np.array(key)[taken]
    drawn[shape[:, 0] == _FLAT[0], 1] = 0.0
    rising = np.flatnonzero((drawn[:, 1] >= 0) & (drawn[:, 0] <= 1))[:DRAWS]
    if not len(rising):  # quality fell throughout: no rise is the nearest curve that may be
        rising, drawn[:, 1] = np.arange(DRAWS), 0.0
    drawn, shape = drawn[rising], shape[rising]
    return LearningCurve(
        int(longest), len(counts), float(np.median(shape[:, 2])), drawn[:, 0], drawn[:, 1], shape[:, 0], shape[:, 1]
    )


@dataclass(frozen=True)
class Plan:
    """What a labelling lead wants to know. `gains`: {more labels: gain}; `needed`: labels for 90 % of the whole gain;
    `promise`: what is said of accepting masks unseen, and `audits`: audited images still needed for it.
    """

    curve: LearningCurve
    gains: dict[int, Interval]
    needed: Interval
    promise: str
    audits: int

    @classmethod
    def of(
        cls, curve: LearningCurve, promise: str = "", audits: int = 0, steps: Sequence[int] = (50, 100, 200)
    ) -> Plan:
        """Read the usual answers off a curve."""
        return cls(curve, {step: curve.gain(step) for step in steps}, curve.labels_for(0.9), promise, audits)

    def lines(self) -> list[str]:
        """For people."""
        now, total = self.curve.quality(self.curve.labels), self.curve.total_gain
        said = [
            f"after {self.curve.labels} labels: quality {now.value:.3f} ({now.low:.3f} to {now.high:.3f}), of a whole "
            f"gain of {100 * total.value:.1f} points ({100 * total.low:.1f} to {100 * total.high:.1f})",
        ]
        said += [
            f"next {more} labels: {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
            for more, gain in self.gains.items()
        ]
        if total.high < 0.01:
            said.append("labels for 90 % of the gain: there is next to nothing to gain")
        else:
            needed = self.needed
            said.append(f"labels for 90 % of the gain: {needed.value:.0f} ({needed.low:.0f} to {needed.high:.0f})")
        said.append(self.curve.suggestion())
        return [*said, *([self.promise] if self.promise else [])]


def _in_range(values: Float64s) -> bool:
    return bool((values >= 0).all() and (values <= 1).all())


def _fall(labels: float | Float64s, scale: Float64s | np.float64, power: Float64s | np.float64) -> Float64s:
    """1 at no labels, 0 at infinity: exp(-n / scale) where power is 0, else (1 + n / scale) ** -power."""
    ratio = np.asarray(labels, np.float64) / scale
    return np.asarray(np.where(power > 0, (1.0 + ratio) ** -power, np.exp(-ratio)), np.float64)


def _inverse(left: float, scale: Float64s, power: Float64s) -> Float64s:
    """Labels at which `left` of the rise is still to come."""
    safe = np.where(power > 0, power, 1.0)
    return np.asarray(np.where(power > 0, scale * (left ** (-1.0 / safe) - 1.0), -scale * np.log(left)), np.float64)


def _linear(design: Float64s, values: Float64s, noise: float, may_rise: float) -> tuple[float, Float64s, Float64s]:
    """Log evidence, mean (2,) and root of the covariance (2, 2) of end and rise, by Bayesian linear regression."""
    centre = np.array([_PRIOR_END[0], _PRIOR_RISE[0]])
    spread = np.maximum(np.array([_PRIOR_END[1], _PRIOR_RISE[1] * may_rise]) ** 2, 1e-16)
    precision = np.diag(1 / spread) + design.T @ design / noise**2
    covariance = np.linalg.inv(precision)
    error = values - design @ centre
    mean = centre + covariance @ (design.T @ error) / noise**2
    whole = noise**2 * np.eye(len(values)) + (design * spread) @ design.T
    _, log_determinant = np.linalg.slogdet(whole)
    evidence = -0.5 * (float(error @ np.linalg.solve(whole, error)) + float(log_determinant))
    return evidence, mean, np.linalg.cholesky(covariance)


def _interval(draws: Float64s) -> Interval:
    low, high = np.quantile(draws, [0.05, 0.95])
    return Interval(float(draws.mean()), float(low), float(high))
