"""Work left in a task, in actions and in seconds, and the threshold above which showing an object saves work.

Shapes: K objects shown or not, T wanted ones, N objects that taught.

Seconds are medians or means of crowd workers: 1.6 s to look at an outline (Papadopoulos et al., CVPR 2016, arXiv
1602.08405), 2.4 s to find and click an object (Bearman et al., ECCV 2016, arXiv 1506.02106), 79.2 s to draw a polygon
(Lin et al., ECCV 2014, arXiv 1405.0312). Other people and pictures than yours: measure your own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Prices:
    """Seconds of each action. `look`: at an object shown; `delete`: one shown for nothing; `relabel`: its class;
    `correct`: its outline; `add`: an object that was not shown.

    An object that was not shown is found with a click of a smart tool and looked at; its outline then needs as much
    correction as if it had been shown.
    Raises `TrainingError` for a price below zero, and unless deleting and adding cost something.
    """

    look: float = 1.6
    delete: float = 2.4
    relabel: float = 2.4
    correct: float = 4.0
    add: float = 4.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0 or min(self.delete, self.add) <= 0:
            raise TrainingError("prices of at least 0 s, above 0 for delete and add", str(self), "measure your own")

    @classmethod
    def by_hand(cls) -> Prices:
        """For people who draw by hand what is not shown, and draw anew what is not right."""
        return cls(correct=79.2, add=79.2)


@dataclass(frozen=True)
class Work:
    """Counts of what is left to do in one or several tasks. `kept` objects are right as they are shown."""

    kept: float = 0.0
    deleted: float = 0.0
    relabelled: float = 0.0
    corrected: float = 0.0
    added: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def shown(self) -> float:
        """Objects that were shown; one that is both relabelled and corrected counts among the corrected."""
        return self.kept + self.deleted + self.relabelled + self.corrected

    @property
    def actions(self) -> float:
        """Deletions, relabellings, corrections and additions."""
        return self.deleted + self.relabelled + self.corrected + self.added

    def seconds(self, prices: Prices | None = None) -> float:
        """What they take, looking included."""
        p = prices or Prices()
        return (
            self.shown * p.look
            + self.deleted * p.delete
            + self.relabelled * p.relabel
            + self.corrected * p.correct
            + self.added * p.add
        )


def count_work(
    partner: npt.NDArray[np.int64],
    iou: Floats,
    right_label: Flags,
    objects: int,
    good_iou: float = 0.75,
) -> Work:
    """The work left in a task in which K objects are shown and `objects` are wanted.

    `partner` (K,): the wanted object that each one shows, -1 for none, none twice; `iou` (K,) with it; `right_label`
    (K,). An outline below `good_iou` is corrected.
    """
    matched = partner >= 0
    poor = matched & (iou < good_iou)
    wrong = matched & ~poor & ~right_label
    return Work(
        kept=float((matched & ~poor & ~wrong).sum()),
        deleted=float((~matched).sum()),
        relabelled=float(wrong.sum()),
        corrected=float(poor.sum()),
        added=float(objects - matched.sum()),
    )


def match_objects(overlap: Floats, least: float = 0.5) -> npt.NDArray[np.int64]:
    """(K, T) IoUs -> the column that each row shows, (K,), -1 for none; one to one, the best pair first."""
    partner = np.full(len(overlap), -1, np.int64)
    left = np.array(overlap, np.float64)
    while left.size and left.max() >= max(least, 1e-9):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        partner[row] = column
        left[row], left[:, column] = 0, 0
    return partner


def outline_work(overlap: Floats) -> Work:
    """The work that K objects shown leave, of (K, T) IoUs with the wanted ones, labels and outlines aside: an outline
    that is found by hand needs as much correction as one that was shown."""
    partner = match_objects(overlap)
    iou = np.array([overlap[row, column] if column >= 0 else 0.0 for row, column in enumerate(partner)])
    return count_work(partner, iou, np.ones(len(overlap), bool), overlap.shape[1], good_iou=0.5)


def worthwhile(prices: Prices) -> float:
    """The probability of being wanted from which on showing an object costs less than not showing it."""
    loss = prices.look + prices.delete
    saved = max(prices.add - prices.look, 1e-9)
    return loss / (loss + saved)


UNSEEN = 2
"""Objects shown for nothing that are counted with every threshold beside those that were seen."""


@dataclass(frozen=True)
class Threshold:
    """What to show: objects whose probability of being wanted is at least `value`.

    `precision` and `recall` are those of the objects it was chosen on, `recall` out of the wanted among them.
    """

    value: float
    precision: float
    recall: float


def choose_threshold(
    probability: Floats,
    wanted: Flags,
    prices: Prices | None = None,
    *,
    least_recall: float = 0.8,
    least_precision: float = 0.55,
) -> Threshold:
    """The threshold of least work on N objects whose images taught nothing to their probabilities.

    Parameters: probability (N,) in [0, 1] and whether each is wanted (N,), both of images left out; `least_recall` of
    the wanted among them is kept, and `least_precision` of what is shown is wanted. Where both cannot be had, as many
    are kept as the precision allows: who has to delete more than there is to keep turns the proposals off. Where no
    threshold reaches the precision, the one that comes nearest is taken. Of many thresholds one looks better than it is
    by chance, the more so the fewer objects it shows: `UNSEEN` more that are not wanted are counted with each.

    Without a wanted object there is nothing to count, and the prices alone decide. Raises `TrainingError` on sizes
    that differ.

    >>> found = choose_threshold(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 0, 0], bool))
    >>> round(found.value, 2), found.recall
    (0.65, 1.0)
    """
    p, yes = np.asarray(probability, np.float64), np.asarray(wanted, bool)
    if p.shape != yes.shape or p.ndim != 1:
        raise TrainingError("probabilities and flags of one size (N,)", f"{p.shape} and {yes.shape}")
    known = np.isfinite(p)
    p, yes = p[known], yes[known]
    prices = prices or Prices()
    if not yes.any():
        return Threshold(worthwhile(prices), float("nan"), float("nan"))
    order = np.argsort(-p, kind="stable")
    ranked, hits = p[order], np.cumsum(yes[order])
    last_of_ties = np.r_[ranked[1:] < ranked[:-1], True]
    shown = np.arange(1, len(p) + 1)
    seconds = (shown - hits) * (prices.look + prices.delete) + hits * prices.look + (hits[-1] - hits) * prices.add
    careful = np.where(last_of_ties, hits / (shown + UNSEEN), -1.0)
    precise = careful >= least_precision
    complete = last_of_ties & (hits >= least_recall * hits[-1])
    if (precise & complete).any():
        allowed = precise & complete
    elif precise.any():
        allowed = precise & (hits == hits[precise].max())
    else:
        allowed = careful == careful.max()
    best = int(np.flatnonzero(allowed)[seconds[allowed].argmin()])
    following = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    value = float((ranked[best] + following) / 2)
    return Threshold(value, float(hits[best] / shown[best]), float(hits[best] / hits[-1]))
