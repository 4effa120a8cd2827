"""From a project's samples to a judged head set: trained from the checkpoint's heads, compared with those in use.

Training starts from the checkpoint's heads and not from the champion's, so that the outcome depends on the labels alone
and not on how often somebody trained, and ten labels cannot move them far.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.learning.samples import prefer_mask_samples, to_batch
from backend.store.records import ExampleRow, SampleRow
from usam.active.refinement import Gain
from usam.training.gate import Batch, Verdict, judge, take

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

MIN_TASKS = 3
"""Annotated tasks below which nothing is trained: the gate could not judge it."""
NO_CHANGE = "no change was the best that these labels support"


@dataclass(frozen=True)
class Trained:
    """A candidate and what was found of it. `verdict` is None where the candidate is the champion itself; `gains`: head
    set's version -> what choosing masks by its predicted IoU gained; seconds."""

    candidate: HeadSet
    verdict: Verdict | None
    gains: dict[str, Gain]
    labels: list[str]
    objects: int
    audit_objects: int
    fit_s: float
    gate_s: float

    @property
    def promote(self) -> bool:
        """Whether the candidate takes the champion's place."""
        return self.verdict is not None and self.verdict.promote

    @property
    def reason(self) -> str:
        """One line for people."""
        return self.verdict.reason if self.verdict is not None else NO_CHANGE


def train_and_judge(
    train: Sequence[SampleRow],
    held: Sequence[SampleRow],
    base: HeadSet | None,
    champion: HeadSet | None,
    trained_on: Collection[str],
    checkpoint: str,
    seed: int,
) -> Trained:
    """Train on samples, judge by `held`, the samples of audit tasks, or by folds where those are too few.

    `trained_on` names the labels that the champion has learned (`label_names`). Raises `TrainingError` where training
    fails.
    """
    started = time.perf_counter()
    train = prefer_mask_samples(list(train))
    batch = known_targets(to_batch(train), base)
    audit = known_targets(to_batch(list(held)), base) if held else None
    candidate = fit(batch, base, checkpoint, seed)
    fitted = time.perf_counter()
    folds: list[tuple[HeadSet, Batch]] = []

    def refit(part: Batch) -> HeadSet:
        folds.append((fit(part, base, checkpoint, seed), part))
        return folds[-1][0]

    verdict: Verdict | None = None
    if champion is None or candidate.version != champion.version:
        unseen = np.array([not set(label_names([row])) <= set(trained_on) for row in train])
        verdict = judge(champion, candidate, batch, audit, refit, unseen, seed)
    return Trained(
        candidate=candidate,
        verdict=verdict,
        gains=selection_gains(checkpoint, base, candidate, batch, audit, folds, seed),
        labels=label_names(train),
        objects=len(batch["groups"]),
        audit_objects=len(audit["groups"]) if audit else 0,
        fit_s=round(fitted - started, 3),
        gate_s=round(time.perf_counter() - fitted, 3),
    )


def fingerprint(
    rows: Sequence[SampleRow], audits: Sequence[int], examples: Sequence[ExampleRow] = (), classes: Sequence[str] = ()
) -> str:
    """Digest of what a retraining depends on. Whose decoder made the samples of the same labels is all one."""
    parts = [[*label_names([row]), row.region, row.checkpoint.partition("+")[0]] for row in rows]
    parts += [[f"{row.annotation}@{row.updated_at}", row.features_version] for row in examples]
    return hashlib.sha256(json.dumps([list(audits), parts, list(classes)]).encode()).hexdigest()


def label_names(rows: Iterable[SampleRow]) -> list[str]:
    """Names of the annotations, each as it was: another `updated_at` is another label."""
    return list(dict.fromkeys(f"{row.annotation}@{row.updated_at}" for row in rows))


def fit(batch: Batch, base: HeadSet | None, checkpoint: str, seed: int) -> HeadSet:
    """A head set trained on a batch, starting from the checkpoint's heads where there are some."""
    from usam.training import TrainSettings, fit_heads

    fitted = fit_heads(
        batch["iou_token"],
        batch["mask_tokens"],
        batch["targets"],
        batch["groups"],
        settings=TrainSettings(seed=seed % 2**31, device="cpu"),
        checkpoint=checkpoint,
        init=base,
    )
    return fitted.heads


def known_targets(batch: Batch, base: HeadSet | None) -> Batch:
    """The batch with those targets only that the checkpoint has heads for."""
    targets = batch["targets"]
    return {**batch, "targets": {name: targets[name] for name in targets if base is None or name in base.names}}


def selection_gains(
    checkpoint: str,
    base: HeadSet | None,
    candidate: HeadSet,
    batch: Batch,
    audit: Batch | None,
    folds: Sequence[tuple[HeadSet, Batch]],
    seed: int,
) -> dict[str, Gain]:
    """Head set's version -> what choosing masks by its predicted IoU gains in true IoU over SAM's own score.

    The checkpoint's heads are judged by every label, for they have seen none. The candidate is judged by audit labels
    and, where the gate refitted it on folds (`folds`: the heads and what they learned from), by the labels left out.
    """
    held = [audit] if audit is not None else []
    judged = [(candidate, part) for part in held]
    for heads, learned in folds:
        outside = ~np.isin(batch["groups"], np.unique(learned["groups"]))
        judged.append((heads, take(batch, outside)))
    gains = {candidate.version: _mean_gain(checkpoint, judged, seed)} if judged else {}
    if base is not None:
        gains[base.version] = _mean_gain(checkpoint, [(base, part) for part in (batch, *held)], seed)
    return gains


def _mean_gain(checkpoint: str, judged: Sequence[tuple[HeadSet, Batch]], seed: int) -> Gain:
    from usam.active.mask_selection import choice_gain, choice_gains

    gains: list[Any] = [choice_gains(heads, checkpoint, part) for heads, part in judged]
    groups: list[Any] = [np.asarray(part["groups"]) for _, part in judged]
    return choice_gain(np.concatenate(gains), np.concatenate(groups), seed)
