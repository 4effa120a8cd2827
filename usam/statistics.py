"""What a score is worth: relative AUC, share of the way to the oracle, correlation, calibration, intervals.

Legend: N objects, G groups (images), R bootstrap replicates, H heads. A *measure* (N,) is high where an
object should be refined first. `before` and `after` (N,) are its IoU without and with refinement, in [0,
1]. Relative AUCs and shares are fractions of one, not percent; higher = better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import UsamError

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]


def _checked(measure: Floats, before: Floats, after: Floats) -> tuple[Float64s, Float64s]:
    """Gain of each object and its measure, in float64. Raises `UsamError` on sizes and values that do not
    fit.
    """
    values, low, high = (np.asarray(part, np.float64) for part in (measure, before, after))
    if values.ndim != 1 or values.shape != low.shape or low.shape != high.shape or not len(values):
        raise UsamError("measure, before and after of one size (N,)", f"{values.shape}, {low.shape}, {high.shape}")
    if not (np.isfinite(values).all() and np.isfinite(low).all() and np.isfinite(high).all()):
        raise UsamError("finite measures and IoUs", "NaN or infinity", "leave these objects out")
    return high - low, values


def replacement_curve(measure: Floats, before: Floats, after: Floats) -> Float64s:
    """Mean IoU once the k objects of highest measure are refined, k = 0..N; (N + 1,). Ties: their mean gain.

    The curve of UncertainSAM's figure 5 (arXiv 2505.05049), with k / N on the other axis.
    Raises `UsamError` where sizes differ or values are not finite.
    """
    gain, values = _checked(measure, before, after)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    shared = np.repeat(np.add.reduceat(gain[order], starts) / sizes, sizes)
    curve: Float64s = np.r_[0.0, np.cumsum(shared)] / len(ranked) + np.asarray(before, np.float64).mean()
    return curve


def _area(curve: Float64s) -> float:
    """Area under a curve over shares 0..1 by trapezoids."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def _places(measure: Floats, before: Floats, after: Floats) -> tuple[float, float, float]:
    """Areas above `no refinement` of the measure, the oracle and random order."""
    gain, _ = _checked(measure, before, after)
    base = float(np.asarray(before, np.float64).mean())
    area = _area(replacement_curve(measure, before, after)) - base
    oracle = _area(replacement_curve(gain, before, after)) - base
    return area, oracle, float(gain.mean()) / 2


def relative_auc(measure: Floats, before: Floats, after: Floats) -> float:
    """`(A - A_none) / (A_oracle - A_none)`: 1 = oracle, 0 = no refinement; random order is well above 0.

    Sort objects by `measure` (N,), highest first, replace the top share r of `before` by `after`; A is the
    area under mean IoU(r), r in [0, 1]. Refined is refined: objects that lose by it count too, and the
    oracle sorts by gain. NaN where the oracle gains nothing. Raises `UsamError` where sizes differ or
    values are not finite.
    """
    area, oracle, _ = _places(measure, before, after)
    return area / oracle if abs(oracle) > 1e-12 else float("nan")


def share_to_oracle(measure: Floats, before: Floats, after: Floats) -> float:
    """`(A - A_random) / (A_oracle - A_random)`: 1 = oracle, 0 = random order, below 0 = worse than random.

    Areas as in `relative_auc`; the random order's is that of its expectation, the straight line. NaN where
    the oracle is no better than random. Raises `UsamError` where sizes differ or values are not finite.
    """
    area, oracle, random = _places(measure, before, after)
    return (area - random) / (oracle - random) if abs(oracle - random) > 1e-12 else float("nan")


def pearson(first: Floats, second: Floats) -> float:
    """Pearson correlation of two (N,) arrays, over the pairs in which both are finite; NaN where one is
    constant.
    """
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    if a.shape != b.shape:
        raise UsamError("two arrays of one size", f"{a.shape} and {b.shape}")
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return float("nan")
    a = a[known] - a[known].mean()
    b = b[known] - b[known].mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def pearson_matrix(columns: Mapping[str, Floats]) -> Float64s:
    """(C, C) correlations of C columns (N,) each."""
    values = list(columns.values())
    return np.array([[pearson(first, second) for second in values] for first in values], np.float64)


@dataclass(frozen=True)
class Reliability:
    """Bins of equally many objects by prediction: mean predicted, mean true, count; each (bins,)."""

    predicted: Float64s
    true: Float64s
    count: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean |predicted - true| over bins, by count."""
        return float(np.average(np.abs(self.predicted - self.true), weights=self.count))


def reliability(predicted: Floats, true: Floats, bins: int = 15) -> Reliability:
    """Reliability of predicted against true IoU (N,), in at most `bins` bins of equally many objects.

    Equal counts, since predicted IoUs crowd near one and an empty equal-width bin says nothing.
    """
    a, b = np.asarray(predicted, np.float64).ravel(), np.asarray(true, np.float64).ravel()
    if a.shape != b.shape or not len(a):
        raise UsamError("predicted and true values of one size", f"{a.shape} and {b.shape}")
    parts = np.array_split(np.argsort(a, kind="stable"), min(bins, len(a)))
    means = [(a[part].mean(), b[part].mean(), len(part)) for part in parts]
    first, second, count = zip(*means, strict=True)
    return Reliability(np.array(first), np.array(second), np.array(count, np.int64))


def calibration_error(predicted: Floats, true: Floats, bins: int = 15) -> float:
    """Expected calibration error of predicted IoU in [0, 1] units; 0 = each bin right on average; lower =
    better.
    """
    return reliability(predicted, true, bins).error


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile interval over resampled groups."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def group_counts(groups: npt.NDArray[Any], replicates: int, seed: int) -> npt.NDArray[np.int32]:
    """How often each row is drawn when groups are drawn with replacement, (R, N); the rows of a group go
    together.
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    return rng.multinomial(len(names), share, size=replicates).astype(np.int32)[:, inverse.reshape(-1)]


def _weighted_areas(gain: Float64s, order: npt.NDArray[np.int64], counts: npt.NDArray[np.int32]) -> Float64s:
    """Area above no refinement in each replicate, (R,), for one order of the objects.

    An object drawn c times holds c neighbouring places; the curve is straight over them, so trapezoids are
    exact.
    """
    weights = counts[:, order].astype(np.float64)
    gains = weights * gain[order]
    total = weights.sum(axis=1)
    before = np.cumsum(gains, axis=1) - gains
    areas: Float64s = (weights * (before + gains / 2)).sum(axis=1) / total**2
    return areas


def bootstrap_auc(
    measure: Floats,
    before: Floats,
    after: Floats,
    groups: npt.NDArray[Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, Interval]:
    """`relative_auc` and `share_to_oracle` with intervals over groups (N,), sorting once for all replicates.

    Memory stays flat: replicates are worked off in blocks. Ties are split as in `replacement_curve`.
    """
    gain, values = _checked(measure, before, after)
    order, ideal = np.argsort(-values, kind="stable"), np.argsort(-gain, kind="stable")
    tied = _tie_means(values[order])
    relative, share = [], []
    for start in range(0, replicates, block := max(1, 4_000_000 // len(gain))):
        counts = group_counts(groups, min(block, replicates - start), seed + start)
        area = _tied_areas(gain, order, tied, counts)
        oracle = _weighted_areas(gain, ideal, counts)
        random = (counts @ gain) / counts.sum(axis=1) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            relative.append(area / oracle)
            share.append((area - random) / (oracle - random))
    return (
        _interval(relative_auc(measure, before, after), np.concatenate(relative), level),
        _interval(share_to_oracle(measure, before, after), np.concatenate(share), level),
    )


def _tie_means(ranked: Float64s) -> npt.NDArray[np.int64] | None:
    """Number of the run of equal values each place belongs to, (N,); None where all differ."""
    new = np.r_[True, ranked[1:] != ranked[:-1]]
    return None if new.all() else np.cumsum(new) - 1


def _tied_areas(
    gain: Float64s,
    order: npt.NDArray[np.int64],
    runs: npt.NDArray[np.int64] | None,
    counts: npt.NDArray[np.int32],
) -> Float64s:
    """As `_weighted_areas`, with equal measures as one straight stretch of the curve."""
    if runs is None:
        return _weighted_areas(gain, order, counts)
    starts = np.flatnonzero(np.r_[True, runs[1:] != runs[:-1]])
    weights = counts[:, order].astype(np.float64)
    gains = np.add.reduceat(weights * gain[order], starts, axis=1)
    weights = np.add.reduceat(weights, starts, axis=1)
    total = weights.sum(axis=1)
    areas: Float64s = (weights * (np.cumsum(gains, axis=1) - gains / 2)).sum(axis=1) / total**2
    return areas


def bootstrap_weighted(
    statistic: Callable[[Float64s], Float64s],
    value: float,
    groups: npt.NDArray[Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval over groups (N,) of a statistic that maps row weights (R, N) to figures (R,)."""
    figures = []
    for start in range(0, replicates, block := max(1, 4_000_000 // len(groups))):
        counts = group_counts(groups, min(block, replicates - start), seed + start)
        figures.append(statistic(counts.astype(np.float64)))
    return _interval(value, np.concatenate(figures), level)


def bootstrap_mean(values: Floats, groups: npt.NDArray[Any], **options: Any) -> Interval:
    """Mean of (N,) with its interval over groups."""
    known = np.asarray(values, np.float64)
    return bootstrap_weighted(lambda w: (w @ known) / w.sum(axis=1), float(known.mean()), groups, **options)


def bootstrap_pearson(first: Floats, second: Floats, groups: npt.NDArray[Any], **options: Any) -> Interval:
    """Pearson correlation of two (N,) with its interval over groups."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    moments = np.stack([a, b, a * a, b * b, a * b], axis=1)

    def statistic(weights: Float64s) -> Float64s:
        m = (weights @ moments) / weights.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt((m[:, 2] - m[:, 0] ** 2) * (m[:, 3] - m[:, 1] ** 2))
            figures: Float64s = (m[:, 4] - m[:, 0] * m[:, 1]) / spread
        return figures

    return bootstrap_weighted(statistic, pearson(a, b), groups, **options)


def bootstrap_calibration(
    predicted: Floats, true: Floats, groups: npt.NDArray[Any], *, bins: int = 15, **options: Any
) -> Interval:
    """`calibration_error` with its interval over groups; bins are those of the whole sample."""
    a, b = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    parts = np.array_split(np.argsort(a, kind="stable"), min(bins, len(a)))
    member = np.zeros((len(a), len(parts)))
    for number, part in enumerate(parts):
        member[part, number] = 1

    def statistic(weights: Float64s) -> Float64s:
        gaps = np.abs((weights * (a - b)) @ member)
        figures: Float64s = gaps.sum(axis=1) / weights.sum(axis=1)
        return figures

    return bootstrap_weighted(statistic, calibration_error(a, b, bins), groups, **options)


def _interval(value: float, figures: Float64s, level: float) -> Interval:
    known = figures[np.isfinite(figures)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def stable_uniform(ids: Sequence[object], seed: int, purpose: str = "") -> Float64s:
    """A number in [0, 1) for each id, (N,), that depends on id, seed and purpose only: not on who else is
    there.
    """
    digests = (
        hashlib.blake2b(f"{seed}|{purpose}|{key}".encode(errors="surrogatepass"), digest_size=8).digest() for key in ids
    )
    integers = np.frombuffer(b"".join(digests), dtype=">u8")
    return (integers >> np.uint64(11)).astype(np.float64) * 2.0**-53
