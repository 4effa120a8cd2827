"""SAM's own estimate beside what labels taught: how much of each says whether a proposal is wanted.

Shapes: N proposals that taught, K to judge.

Where a project's objects differ from the rest by what they are, looks decide; where nearly everything that has a clear
outline is wanted, as cells are, SAM's estimate knows more than a few labelled images can teach. Images left out say
which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.training.split import group_folds

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FOLDS = 5
SLACK = 0.05
"""Average precision that may be lost for the estimate's say: it also picks the better of two that overlap, which
average precision over all proposals does not see."""
SHRUNKEN = 0.3
"""scikit-learn's C of the blend's three numbers."""


@dataclass(frozen=True)
class Blend:
    """Log odds of being wanted: `head` times those of the head, plus `estimate` times those of SAM's estimate, plus
    `bias`."""

    head: float
    estimate: float
    bias: float

    def probability(self, wanted: Floats, samscore: Floats) -> Float64s:
        """(K,) from the head's probabilities and SAM's estimates, both (K,) in [0, 1].

        >>> Blend(1.0, 0.0, 0.0).probability(np.array([0.25]), np.array([0.9])).round(2)
        array([0.25])
        """
        odds = self.head * _odds(wanted) + self.estimate * _odds(samscore) + self.bias
        return np.asarray(1 / (1 + np.exp(-odds)), np.float64)


def fit_blend(
    left_out: Floats, samscore: Floats, wanted: Flags, images: Sequence[object], seed: int = 0
) -> tuple[Blend, Float64s, str]:
    """The best of the head, SAM's estimate and both, by average precision on images left out.

    Parameters: `left_out` (N,) the head's probabilities of images that did not teach it, `samscore` (N,), whether each
    is `wanted` (N,), and the `images` (N,) that they are from.

    Returns the blend, its probabilities (N,) of images that did not teach it, and its name: "head", "estimate" or
    "both".
    """
    alone = Blend(1.0, 0.0, 0.0)
    fold = group_folds(np.asarray([str(each) for each in images]), FOLDS, seed)
    best = (alone, np.asarray(left_out, np.float64), "head")
    score = average_precision(left_out, wanted) - SLACK
    columns = np.stack([_odds(left_out), _odds(samscore)], axis=1)
    for name, used in (("both", [0, 1]), ("estimate", [1])):
        judged = np.full(len(wanted), np.nan)
        for number in range(fold.max(initial=0) + 1):
            out = fold == number
            fitted = _fitted(columns[~out], wanted[~out], used)
            if fitted is not None:
                judged[out] = fitted.probability(left_out[out], samscore[out])
        blend = _fitted(columns, wanted, used)
        if blend is not None and np.isfinite(judged).all() and average_precision(judged, wanted) > score:
            best, score = (blend, judged, name), average_precision(judged, wanted)
    return best


def average_precision(score: Floats, wanted: Flags) -> float:
    """Area under precision over recall, in [0, 1]; NaN where that cannot be told."""
    from sklearn.metrics import average_precision_score

    known = np.isfinite(score)
    if not wanted[known].any():
        return float("nan")
    return float(average_precision_score(wanted[known], np.asarray(score)[known]))


def _fitted(columns: Float64s, wanted: Flags, used: list[int]) -> Blend | None:
    """None where one of the used columns speaks against being wanted, or there is nothing to compare."""
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(columns).all(axis=1)
    if not wanted[known].any() or wanted[known].all():
        return None
    mean, scale = columns[known].mean(0), columns[known].std(0) + 1e-6
    model = LogisticRegression(C=SHRUNKEN, max_iter=200)
    model.fit(((columns[known] - mean) / scale)[:, used], wanted[known])
    weights = np.zeros(2)
    weights[used] = model.coef_[0] / scale[used]
    if (weights[used] <= 0).any():
        return None
    return Blend(float(weights[0]), float(weights[1]), float(model.intercept_[0] - weights @ mean))


def _odds(probability: Floats) -> Float64s:
    held = np.clip(np.asarray(probability, np.float64), 1e-4, 1 - 1e-4)
    return np.asarray(np.log(held / (1 - held)), np.float64)
