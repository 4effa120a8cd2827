"""The gate: whether a candidate head set may take the champion's place.

Legend: N objects, T heads, M = 3 outputs. The error of an object is the mean over heads and outputs of the squared
difference between score and target (IoUs, and gaps as 0.5 + gap): lower = better.

Audit tasks are drawn at random, whatever the ranking, and never trained on, so errors on their objects are unbiased.
Where they are too few, the candidate's recipe is judged by cross-validation over the tasks that the champion was
not trained on: a task's objects are always together, in or out, and neither side has seen the objects it is judged
on. Either way the two sets are compared object by object, and the candidate must be better in the mean and in
`MIN_SHARE` of bootstrap draws over tasks. Ties go to the champion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

MIN_AUDIT_TASKS = 5
MIN_AUDIT_OBJECTS = 10
MIN_SHARE = 0.8
FOLDS = 5
DRAWS = 2000
Batch = Mapping[str, Any]
"""iou_token (N, D), mask_tokens (N, 4, D), targets {head: (N, M)}, groups (N,), which are tasks (images)."""
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What the gate found. `share` is that of bootstrap draws in which the candidate is better."""

    promote: bool
    method: str
    objects: int
    tasks: int
    champion_error: float
    candidate_error: float
    share: float

    @property
    def reason(self) -> str:
        """One line for people."""
        if not self.objects:
            return self.method
        words = "better" if self.promote else "not surely better"
        return (
            f"{words} by {self.method}: error {self.candidate_error:.4f} against {self.champion_error:.4f} "
            f"on {self.objects} objects of {self.tasks} tasks, in {self.share:.0%} of draws"
        )

    def figures(self) -> dict[str, Any]:
        """For the registry and the run record; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value == value}


def judge(
    champion: HeadSet | None,
    candidate: HeadSet,
    train: Batch,
    audit: Batch | None,
    refit: Callable[[Batch], HeadSet],
    unseen: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compare two head sets on audit objects, else the recipe `refit` with the champion on held-out folds.

    `unseen` (N,) flags the training objects that the champion was not trained on; all of them where it is None.

    Without a champion, the candidate has to beat each head's mean target.
    """
    if audit is not None and len(audit["groups"]) >= MIN_AUDIT_OBJECTS and _tasks(audit) >= MIN_AUDIT_TASKS:
        before = object_errors(champion, audit, train)
        return _verdict("audit", before, object_errors(candidate, audit, train), audit["groups"], seed)
    groups = np.asarray(train["groups"])
    judged = np.ones(len(groups), np.bool_) if unseen is None else unseen
    if len(np.unique(groups[judged])) < 2:
        nan = float("nan")
        return Verdict(False, "nothing new to judge by", 0, 0, nan, nan, 0.0)
    before = np.full(len(groups), np.nan)
    after = before.copy()
    for tasks in _folds(groups[judged], seed):
        fold = np.isin(groups, tasks)
        inside, outside = take(train, ~fold), take(train, fold & judged)
        before[fold & judged] = object_errors(champion, outside, inside)
        after[fold & judged] = object_errors(refit(inside), outside, inside)
    return _verdict("cross-validation", before[judged], after[judged], groups[judged], seed)


def object_errors(heads: HeadSet | None, batch: Batch, train: Batch) -> Float64s:
    """(N,) mean squared error of each object over the heads and outputs whose target is known."""
    wanted = [name for name in batch["targets"] if heads is None or name in heads.names]
    if heads is None:
        told = {name: np.nanmean(train["targets"][name]) for name in wanted}
    else:
        scores = heads.subset(wanted).score(batch["iou_token"], batch["mask_tokens"])
        told = {name: values + 0.5 * name.endswith("_gap") for name, values in scores.items()}
    errors = np.stack([(told[name] - batch["targets"][name]) ** 2 for name in wanted], axis=-1)
    return np.asarray(np.nanmean(errors, axis=(1, 2)), np.float64)


def take(batch: Batch, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The chosen objects of a batch."""
    return {
        "iou_token": batch["iou_token"][rows],
        "mask_tokens": batch["mask_tokens"][rows],
        "targets": {name: values[rows] for name, values in batch["targets"].items()},
        "groups": np.asarray(batch["groups"])[rows],
    }


def _verdict(method: str, before: Float64s, after: Float64s, groups: npt.NDArray[Any], seed: int) -> Verdict:
    names, places = np.unique(groups, return_inverse=True)
    gain = before - after
    sums, counts = np.bincount(places, gain), np.bincount(places)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(DRAWS, len(names)))
    share = float((sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) > 0).mean())
    better = bool(gain.mean() > 0 and share >= MIN_SHARE)
    return Verdict(better, method, len(gain), len(names), float(before.mean()), float(after.mean()), share)


def _folds(groups: npt.NDArray[Any], seed: int) -> list[npt.NDArray[Any]]:
    """The tasks of each fold."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return [part for part in np.array_split(names, min(FOLDS, len(names))) if len(part)]


def _tasks(batch: Batch) -> int:
    return len(np.unique(batch["groups"]))
