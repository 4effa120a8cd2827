"""Whether a promise about accepted masks still holds: a test on audit labels that come in after the calibration.

Legend: I incoming images. Two games are played against the hypothesis that nothing has changed, one image after the
other; each is fair while it is true, so the chance that their mean wealth ever reaches W is at most 1/W (Ville),
however often somebody looks.

- *failures*: stakes on "more than `risk` of the accepted masks fails" (Waudby-Smith and Ramdas, arXiv 2010.09686). Sure
  of the promise itself, but accepted masks that fail are rare.
- *residuals*: stakes on "masks are worse than their predicted IoU says, more than in the calibration", by each image's
  conformal p-value among all before it (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, ch. 7). Every
  labelled image counts, so it is quicker.

In both, a little of the wealth moves between stakes all the time, so that a change after a long quiet time is found
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Calibration, Candidates
from usam.statistics import stable_uniform

Float64s = npt.NDArray[np.float64]

FALSE_ALARM = 0.05
"""Chance of ever withdrawing a promise although nothing has changed."""
_MOVES = 0.01
_FAILURE_STAKES = (0.0, 0.05, 0.12, 0.3)
_RESIDUAL_STAKES = (0.0, 0.5, 0.95)


@dataclass(frozen=True)
class Drift:
    """What incoming audit labels say. Wealth above `limit` withdraws the promise; `failures` and `residuals` are the
    highest of each game, `wealth` that of their mean."""

    withdrawn: bool
    wealth: float
    limit: float
    failures: float
    residuals: float
    images: int
    accepted: int
    failed: int

    @property
    def reason(self) -> str:
        """One line for people."""
        found = f"{self.failed} of {self.accepted} accepted masks failed in {self.images} audited images since"
        if not self.withdrawn:
            return f"holds: {found}; evidence {self.wealth:.2g} of {self.limit:.0f}"
        why = "more masks fail than promised" if self.failures >= self.residuals else "masks are worse than predicted"
        return f"withdrawn, {why}: {found}; evidence {self.wealth:.2g} of {self.limit:.0f}"

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def watch(
    calibration: Calibration, before: Candidates, incoming: Candidates, *, false_alarm: float = FALSE_ALARM
) -> Drift:
    """Judge a promise by labels of audited images that came after its calibration, oldest first in `incoming.audited`.

    `before` are the masks that were calibrated on, scored by the same heads. Raises `PseudoLabelError` where a true IoU
    is missing, or `before` is not what the calibration was made from.
    """
    if before.digest() != calibration.digest:
        raise PseudoLabelError("the audit labels of the calibration", "others", "calibrate again")
    if incoming.true_iou is None or before.true_iou is None:
        raise PseudoLabelError("audit labels", "masks without a true IoU", "label the audit tasks")
    promise = calibration.promise
    taken = incoming.accepted(promise, calibration.threshold)
    fails = taken & ~(np.asarray(incoming.true_iou, np.float64) >= promise.iou)
    order = list(dict.fromkeys([*incoming.audited, *incoming.images]))
    place = {image: number for number, image in enumerate(order)}
    rows = np.array([place[image] for image in incoming.images], np.int64).reshape(-1)
    accepted = np.bincount(rows[taken], minlength=len(order))
    failed = np.bincount(rows[fails], minlength=len(order))
    first = _game(_failure_odds(failed, accepted, promise.risk, promise.per_image))
    values = conformal_p_values(_known(_residuals(before)[1]), *_residuals(incoming, order))
    second = _game(1.0 + np.array(_RESIDUAL_STAKES) * (1.0 - 2.0 * values[:, None]))
    both = np.concatenate([[1.0], (first + second) / 2])
    limit = 1.0 / false_alarm
    return Drift(
        bool(both.max() >= limit),
        float(both.max()),
        limit,
        float(first.max(initial=1.0)),
        float(second.max(initial=1.0)),
        len(order),
        int(taken.sum()),
        int(fails.sum()),
    )


def conformal_p_values(before: Float64s, names: Sequence[object], incoming: Float64s) -> Float64s:
    """(I,) p-value of each incoming score among those before it and itself, uniform on [0, 1] where nothing has
    changed; low = unusually high. NaN scores (images without masks) say nothing: 0.5.

    Ties are broken by a number drawn from the name, so that the same stream always gives the same values.
    """
    seen = np.sort(before)
    draws = stable_uniform(names, 0, "tie")
    values = np.full(len(incoming), 0.5)
    for row, score in enumerate(incoming):
        if np.isnan(score):
            continue
        left, right = np.searchsorted(seen, score, "left"), np.searchsorted(seen, score, "right")
        above, equal = len(seen) - right, right - left + 1
        values[row] = (above + draws[row] * equal) / (len(seen) + 1)
        seen = np.insert(seen, left, score)
    return values


def _residuals(masks: Candidates, order: Sequence[object] | None = None) -> tuple[Sequence[object], Float64s]:
    """Images and how much their masks' IoUs fall short of the prediction, in the mean; NaN where there are none."""
    if order is None:
        order = list(dict.fromkeys([*masks.audited, *masks.images]))
    place = {image: number for number, image in enumerate(order)}
    rows = np.array([place[image] for image in masks.images], np.int64).reshape(-1)
    short = np.asarray(masks.predicted_iou, np.float64) - np.asarray(masks.true_iou, np.float64)
    counts = np.bincount(rows, minlength=len(order))
    sums = np.bincount(rows, short, minlength=len(order))
    means = np.full(len(order), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return order, means


def _known(values: Float64s) -> Float64s:
    return np.asarray(values[~np.isnan(values)], np.float64)


def _failure_odds(failed: Any, accepted: Any, risk: float, per_image: int) -> Float64s:
    """(I, stakes) factors of the wealth: above one where an image fails more than promised."""
    excess = np.asarray(failed, np.float64) - risk * np.asarray(accepted, np.float64)
    return np.asarray(1.0 + np.array(_FAILURE_STAKES) * excess[:, None] / (risk * per_image), np.float64)


def _game(odds: Float64s) -> Float64s:
    """(I,) wealth after each image; `odds` (I, stakes)."""
    parts = np.full(odds.shape[1], 1.0 / odds.shape[1])
    wealth = np.empty(len(odds))
    for row, factors in enumerate(odds):
        parts = (1.0 - _MOVES) * parts + _MOVES * parts.mean()
        parts = parts * factors
        wealth[row] = parts.sum()
    return wealth
