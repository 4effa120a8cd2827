"""The job `retrain`: heads that start from the checkpoint's, learn all of a project's labels, and pass the gate or not.

They start from the checkpoint's heads and not from the champion's, so that the outcome depends on the labels alone and
not on how often somebody trained, and ten labels cannot move them far.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.learning.samples import stacked, usable
from backend.pool.ranking import audit_tasks, heads_in_use, project_seed
from backend.resources import Resources, RunProgress
from backend.store.records import Run, SampleRow
from usam.checkpoints.registry import weights_of
from usam.training.gate import Batch, Verdict, judge, take

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

MIN_TASKS = 3
"""Annotated tasks below which nothing is trained: the gate could not judge it."""


def run(resources: Resources, project: int) -> str:
    """Train, judge, and promote or reject; returns the run's state. Run twice on the same labels, it does nothing.

    Audit tasks are never trained on. Raises `TrainingError` where training fails.
    """
    store = resources.store
    rows = store.samples(project, weights_of(resources.settings.model))
    audits = audit_tasks(resources.settings, project, sorted({row.task for row in rows}))
    key = fingerprint(rows, sorted(audits))
    last = store.last_run(project, "retrain", ("done", "rejected"))
    with resources.run(project, "retrain", fingerprint=key) as progress:
        train = [row for row in rows if row.task not in audits]
        if last is not None and last.fingerprint == key:
            progress.state, progress.reason = "skipped", "no label has changed since the last time"
        elif len({row.task for row in train}) < MIN_TASKS:
            got = f"{len({row.task for row in train})} beside audits"
            progress.state, progress.reason = "skipped", f"expected {MIN_TASKS} annotated tasks, got {got}"
        else:
            held = [row for row in rows if row.task in audits]
            _train_and_judge(resources, project, train, held, progress)
            store.mark_labels_used(project, progress.id, {row.annotation for row in rows})
        if progress.state == "done" or _choice_turned(resources, project, last, progress):
            resources.queue.wake(project, "score_pool", at_front=True)
    return progress.state


def fingerprint(rows: Sequence[SampleRow], audits: Sequence[int]) -> str:
    """Digest of what a retraining depends on."""
    parts = [[*label_names([row]), row.region, row.checkpoint] for row in rows]
    return hashlib.sha256(json.dumps([list(audits), parts]).encode()).hexdigest()


def label_names(rows: Iterable[SampleRow]) -> list[str]:
    """Names of the annotations, each as it was: another `updated_at` is another label."""
    return list(dict.fromkeys(f"{row.annotation}@{row.updated_at}" for row in rows))


def _train_and_judge(
    resources: Resources, project: int, train: list[SampleRow], held: list[SampleRow], progress: RunProgress
) -> None:
    started = time.perf_counter()
    champion, _ = heads_in_use(resources, project)
    base = resources.heads
    current = resources.registry.current(project)
    trained_on = set(current.labels) if current is not None and champion is not base else set()
    train = usable(train)
    batch = _known(stacked(train), base)
    audit = _known(stacked(held), base) if held else None
    seed = project_seed(resources.settings, project)
    progress.step(0, 2, "training")
    candidate = fit(batch, base, resources.settings.model, seed)
    fitted = time.perf_counter()
    progress.step(1, 2, "gate")
    verdict: Verdict | None = None
    folds: list[tuple[HeadSet, Batch]] = []

    def refit(part: Batch) -> HeadSet:
        folds.append((fit(part, base, resources.settings.model, seed), part))
        return folds[-1][0]

    if champion is not None and candidate.version == champion.version:
        progress.state, progress.reason = "rejected", "no change was the best that these labels support"
    else:
        unseen = np.array([not trained_on.issuperset(label_names([row])) for row in train])
        verdict = judge(champion, candidate, batch, audit, refit, unseen, seed)
        progress.state, progress.reason = "done" if verdict.promote else "rejected", verdict.reason
    progress.details = {
        "objects": len(batch["groups"]),
        "audit_objects": len(audit["groups"]) if audit else 0,
        "gate": verdict.figures() if verdict else {},
        "choice": measure_choices(resources.settings.model, base, candidate, batch, audit, folds, seed),
        "seconds": {"fit": round(fitted - started, 3), "gate": round(time.perf_counter() - fitted, 3)},
    }
    if verdict is not None and verdict.promote:
        version = resources.registry.publish(
            project,
            candidate,
            parent=champion.version if champion is not None else "",
            samples=len(train),
            labels=label_names(train),
            figures=verdict.figures(),
        )
        resources.registry.promote(project, version.version, verdict.reason)
        progress.details["version"] = version.version
    progress.step(2, 2)


def _choice_turned(resources: Resources, project: int, last: Run | None, progress: RunProgress) -> bool:
    """Whether masks are now chosen otherwise than after the run `last`, with the heads that are in use."""
    from backend.pool.mask_selection import gain_of
    from usam.active.mask_selection import decide

    heads, _ = heads_in_use(resources, project)
    if heads is None or heads.version not in progress.details.get("choice", {}):
        return False
    figures = [
        details.get("choice", {}).get(heads.version, {}) for details in (last.details if last else {}, progress.details)
    ]
    before, after = (decide(gain_of(one)) for one in figures)
    return resources.settings.mask_choice == "auto" and before != after


def measure_choices(
    checkpoint: str,
    base: HeadSet | None,
    candidate: HeadSet,
    batch: Batch,
    audit: Batch | None,
    folds: Sequence[tuple[HeadSet, Batch]],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Head set's version -> what choosing masks by its predicted IoU gains in true IoU over SAM's own score.

    The checkpoint's heads are judged by every label, for they have seen none. The candidate is judged by audit labels
    and, where the gate refitted it on folds (`folds`: the heads and what they learned from), by the labels left out.
    """
    from usam.active.mask_selection import choice_gain, choice_gains

    held = [audit] if audit is not None else []
    gains: list[Any] = []
    groups: list[Any] = []
    for part in held:
        gains.append(choice_gains(candidate, checkpoint, part))
        groups.append(part["groups"])
    for heads, learned in folds:
        outside = ~np.isin(batch["groups"], np.unique(learned["groups"]))
        gains.append(choice_gains(heads, checkpoint, take(batch, outside)))
        groups.append(np.asarray(batch["groups"])[outside])
    found = {}
    if gains:
        found[candidate.version] = choice_gain(np.concatenate(gains), np.concatenate(groups), seed).figures()
    if base is not None:
        parts = [batch, *held]
        told = np.concatenate([choice_gains(base, checkpoint, part) for part in parts])
        found[base.version] = choice_gain(told, np.concatenate([part["groups"] for part in parts]), seed).figures()
    return found


def fit(batch: Batch, base: HeadSet | None, checkpoint: str, seed: int) -> HeadSet:
    """A head set trained on a batch, starting from the checkpoint's heads where there are some."""
    from usam.training import TrainSettings, fit_heads

    found = fit_heads(
        batch["iou_token"],
        batch["mask_tokens"],
        batch["targets"],
        batch["groups"],
        settings=TrainSettings(seed=seed % 2**31, device="cpu"),
        checkpoint=checkpoint,
        init=base,
    )
    return found.heads


def _known(batch: Batch, base: HeadSet | None) -> Batch:
    """The batch with those targets only that the checkpoint has heads for."""
    targets = batch["targets"]
    return {**batch, "targets": {name: targets[name] for name in targets if base is None or name in base.names}}
