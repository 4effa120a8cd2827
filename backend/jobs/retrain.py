"""The job `retrain`: heads learn all of a project's labels, pass the gate or not, and are put in use or not."""

from __future__ import annotations

from backend.learning.training import MIN_TASKS, Trained, fingerprint, train_and_judge
from backend.pool.policy import audit_tasks, heads_in_use, mask_selection_in_use, project_seed
from backend.resources import Resources, RunProgress
from backend.store.records import SampleRow
from usam.active.mask_selection import MaskSelection
from usam.checkpoints.registry import weights_of


def run(resources: Resources, project_id: int) -> str:
    """Train, judge, and promote or reject; returns the run's state. Run twice on the same labels, it does nothing.

    Audit tasks are never trained on. Raises `TrainingError` where training fails.
    """
    store = resources.store
    rows = store.samples(project_id, weights_of(resources.settings.model))
    audits = audit_tasks(resources.settings, project_id, sorted({row.task for row in rows}))
    key = fingerprint(rows, sorted(audits))
    last = store.last_run(project_id, "retrain", ("done", "rejected"))
    with resources.run(project_id, "retrain", fingerprint=key) as progress:
        train = [row for row in rows if row.task not in audits]
        tasks = len({row.task for row in train})
        if last is not None and last.fingerprint == key:
            progress.state, progress.reason = "skipped", "no label has changed since the last time"
        elif tasks < MIN_TASKS:
            progress.state, progress.reason = (
                "skipped",
                f"expected {MIN_TASKS} annotated tasks, got {tasks} beside audits",
            )
        else:
            before = _selection(resources, project_id)
            _train(resources, project_id, train, [row for row in rows if row.task in audits], progress)
            store.mark_labels_used(project_id, progress.id, {row.annotation for row in rows})
            if progress.state == "done" or _selection(resources, project_id) != before:
                resources.queue.wake(project_id, "score_pool", at_front=True)
    return progress.state


def _selection(resources: Resources, project_id: int) -> MaskSelection:
    return mask_selection_in_use(resources, project_id, heads_in_use(resources, project_id)[0])


def _train(
    resources: Resources, project_id: int, train: list[SampleRow], held: list[SampleRow], progress: RunProgress
) -> None:
    progress.step(0, 2, "training")
    base = resources.heads
    champion, _ = heads_in_use(resources, project_id)
    current = resources.registry.current(project_id)
    trained_on = current.labels if current is not None and champion is not base else ()
    seed = project_seed(resources.settings, project_id)
    trained = train_and_judge(train, held, base, champion, trained_on, resources.settings.model, seed)
    progress.step(1, 2, "gate")
    progress.state, progress.reason = "done" if trained.promote else "rejected", trained.reason
    progress.details = {
        "objects": trained.objects,
        "audit_objects": trained.audit_objects,
        "gate": trained.verdict.figures() if trained.verdict else {},
        "choice": {version: gain.figures() for version, gain in trained.gains.items()},
        "seconds": {"fit": trained.fit_s, "gate": trained.gate_s},
    }
    resources.store.put_selection_gains(project_id, progress.id, trained.gains)
    if trained.verdict is not None:
        resources.store.put_verdict(project_id, progress.id, trained.candidate.version, trained.verdict)
    if trained.promote:
        parent = champion.version if champion is not None else ""
        _promote(resources, project_id, trained, parent)
        progress.details["version"] = trained.candidate.version
    progress.step(2, 2)


def _promote(resources: Resources, project_id: int, trained: Trained, parent: str) -> None:
    version = resources.registry.publish(
        project_id,
        trained.candidate,
        parent=parent,
        samples=trained.objects,
        labels=trained.labels,
        figures=trained.verdict.figures() if trained.verdict else {},
    )
    resources.registry.promote(project_id, version.version, trained.reason)
