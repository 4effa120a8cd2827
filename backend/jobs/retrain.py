"""The job `retrain`: heads that start from the champion's, learn this project's labels, and pass the gate or not."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.errors import JobError
from backend.jobs.context import Context, RunProgress
from backend.jobs.gate import Batch, Verdict, judge
from backend.jobs.ranking import audit_tasks, heads_in_use, project_seed
from backend.jobs.samples import stacked
from backend.store_records import SampleRow

if TYPE_CHECKING:
    from usam.heads import HeadSet

MIN_TASKS = 3
"""Annotated tasks below which nothing is trained: the gate could not judge it."""


def run(context: Context, project: int) -> str:
    """Train, judge, and promote or reject; returns the run's state. Run twice on the same labels, it does nothing.

    Audit tasks are never trained on. Raises `TrainingError` where training fails.
    """
    store = context.store
    rows = store.samples(project, context.settings.model)
    audits = audit_tasks(context.settings, project, sorted({row.task for row in rows}))
    champion = context.registry.champion(project)
    key = fingerprint(rows, champion, sorted(audits))
    last = store.last_run(project, "retrain", ("done", "rejected"))
    with context.run(project, "retrain", fingerprint=key) as progress:
        train = [row for row in rows if row.task not in audits]
        if last is not None and last.fingerprint == key:
            progress.state, progress.reason = "skipped", "no label has changed since the last time"
        elif len({row.task for row in train}) < MIN_TASKS:
            got = f"{len({row.task for row in train})} beside audits"
            progress.state, progress.reason = "skipped", f"expected {MIN_TASKS} annotated tasks, got {got}"
        else:
            held = [row for row in rows if row.task in audits]
            _train_and_judge(context, project, train, held, progress)
            store.use_labels(project, progress.id, {row.annotation for row in rows})
        if progress.state == "done":
            context.queue.wake(project, "score_pool", at_front=True)
    return progress.state


def fingerprint(rows: Sequence[SampleRow], champion: str, audits: Sequence[int]) -> str:
    """Digest of what a retraining depends on."""
    parts = [[row.annotation, row.updated_at, row.region, row.checkpoint] for row in rows]
    return hashlib.sha256(json.dumps([champion, list(audits), parts]).encode()).hexdigest()


def _train_and_judge(
    context: Context, project: int, train: list[SampleRow], held: list[SampleRow], progress: RunProgress
) -> None:
    started = time.perf_counter()
    champion, _ = heads_in_use(context, project)
    batch = _known(stacked(train), champion)
    audit = _known(stacked(held), champion) if held else None
    seed = project_seed(context.settings, project)
    progress.step(0, 2, "training")
    candidate = fit(batch, champion, context.settings.model, seed)
    fitted = time.perf_counter()
    progress.step(1, 2, "gate")
    if champion is not None and candidate.version == champion.version:
        verdict = None
        progress.state, progress.reason = "rejected", "no change was the best that these labels support"
    else:
        verdict = judge(
            champion, candidate, batch, audit, lambda part: fit(part, champion, context.settings.model, seed), seed
        )
        progress.state, progress.reason = "done" if verdict.promote else "rejected", verdict.reason
    progress.details = {
        "objects": len(batch["groups"]),
        "audit_objects": len(audit["groups"]) if audit else 0,
        "gate": verdict.figures() if verdict else {},
        "seconds": {"fit": round(fitted - started, 3), "gate": round(time.perf_counter() - fitted, 3)},
    }
    if verdict is not None and verdict.promote:
        progress.details["version"] = _promote(context, project, candidate, champion, verdict, len(batch["groups"]))
    progress.step(2, 2)


def fit(batch: Batch, champion: HeadSet | None, checkpoint: str, seed: int) -> HeadSet:
    """A head set trained on a batch, starting from the champion where there is one."""
    from usam.training import TrainSettings, fit_heads

    found = fit_heads(
        batch["iou_token"],
        batch["mask_tokens"],
        batch["targets"],
        batch["groups"],
        settings=TrainSettings(seed=seed % 2**31, device="cpu"),
        checkpoint=checkpoint,
        init=champion,
    )
    return found.heads


def _known(batch: dict[str, object], champion: HeadSet | None) -> Batch:
    """The batch with those targets only that the champion has heads for."""
    targets = batch["targets"]
    if not isinstance(targets, dict):
        raise JobError("targets by head", type(targets).__name__)
    kept = {name: values for name, values in targets.items() if champion is None or name in champion.names}
    return {**batch, "targets": kept}


def _promote(
    context: Context, project: int, candidate: HeadSet, champion: HeadSet | None, verdict: Verdict, samples: int
) -> str:
    parent = champion.version if champion is not None else ""
    version = context.registry.publish(project, candidate, parent=parent, samples=samples, figures=verdict.figures())
    context.registry.promote(project, version.version, verdict.reason)
    return version.version
