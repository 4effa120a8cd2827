"""The job `retrain`: heads learn all of a project's labels, pass the gate or not, and are put in use or not; beside
them, what the project wants and calls things is learnt anew."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.learning.examples import known_figures, learn_project, learnt_line
from backend.learning.training import MIN_TASKS, Trained, fingerprint, train_and_judge
from backend.pool.policy import audit_tasks, heads_in_use, mask_selection_in_use, project_seed
from backend.resources import Resources, RunProgress
from backend.store.records import ExampleRow, SampleRow
from usam.active.mask_selection import MaskSelection
from usam.checkpoints.registry import weights_of
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.store.head_versions import Version
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads

_log = logging.getLogger(__name__)


def run(resources: Resources, project_id: int) -> str:
    """Train, judge, and promote or reject; returns the run's state. Run twice on the same labels, it does nothing.

    Audit tasks are never trained on. Raises `TrainingError` where training fails.
    """
    store = resources.store
    rows, examples = store.samples(project_id, weights_of(resources.settings.model)), store.examples(project_id)
    audits = audit_tasks(
        resources.settings, project_id, sorted({row.task for row in rows} | {row.task for row in examples})
    )
    classes = store.classes(project_id)
    key = fingerprint(rows, sorted(audits), examples, classes)
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
            held = [row for row in rows if row.task in audits]
            learnt = _learn(resources, project_id, [row for row in examples if row.task not in audits], classes)
            _train(resources, project_id, train, held, learnt, progress)
            store.mark_labels_used(project_id, progress.id, {row.annotation for row in rows})
            if progress.state == "done" or _selection(resources, project_id) != before:
                resources.queue.wake(project_id, "score_pool", at_front=True)
            resources.queue.wake(project_id, "plan")
    return progress.state


def _selection(resources: Resources, project_id: int) -> MaskSelection:
    return mask_selection_in_use(resources, project_id, heads_in_use(resources, project_id)[0])


def _learn(
    resources: Resources, project_id: int, examples: list[ExampleRow], classes: list[str]
) -> ProjectHeads | None:
    """What the project wants and calls things; None where that cannot be learnt, with a line in the log."""
    seed = project_seed(resources.settings, project_id)
    try:
        return learn_project(examples, classes, resources.settings.model, seed)
    except UsamError as error:
        _log.warning("what project %s is about was not learnt: %s", project_id, error)
        return None


def _train(
    resources: Resources,
    project_id: int,
    train: list[SampleRow],
    held: list[SampleRow],
    learnt: ProjectHeads | None,
    progress: RunProgress,
) -> None:
    progress.step(0, 2, "training")
    base = resources.heads
    champion, _ = heads_in_use(resources, project_id)
    current = resources.registry.current(project_id)
    trained_on = current.labels if current is not None and champion is not base else ()
    seed = project_seed(resources.settings, project_id)
    trained = train_and_judge(train, held, base, champion, trained_on, resources.settings.model, seed)
    progress.step(1, 2, "gate")
    progress.details = {
        "objects": trained.objects,
        "audit_objects": trained.audit_objects,
        "gate": trained.verdict.figures() if trained.verdict else {},
        "choice": {version: gain.figures() for version, gain in trained.gains.items()},
        "seconds": {"fit": trained.fit_s, "gate": trained.gate_s},
        **({"learnt": known_figures(learnt)} if learnt is not None else {}),
    }
    resources.store.put_selection_gains(project_id, progress.id, trained.gains)
    if trained.verdict is not None:
        resources.store.put_verdict(project_id, progress.id, trained.candidate.version, trained.verdict)
    heads = trained.candidate if trained.promote else champion
    version = ""
    if heads is not None and (trained.promote or learnt is not None):
        version = _publish(resources, project_id, current, trained, heads, learnt)
    in_use = current.version if current is not None else ""
    if version and version != in_use:
        lines = [trained.reason, learnt_line(learnt) if learnt is not None else ""]
        progress.state, progress.reason = "done", "; ".join(filter(None, lines))
        resources.registry.promote(project_id, version, progress.reason)
        progress.details["version"] = version
    else:
        progress.state, progress.reason = "rejected", trained.reason
    progress.step(2, 2)


def _publish(
    resources: Resources,
    project_id: int,
    current: Version | None,
    trained: Trained,
    heads: HeadSet,
    learnt: ProjectHeads | None,
) -> str:
    kept = current.labels if current is not None and not trained.promote else trained.labels
    version = resources.registry.publish(
        project_id,
        heads,
        parent=current.version if current is not None else "",
        samples=trained.objects,
        labels=kept,
        figures=trained.verdict.figures() if trained.verdict else {},
        learnt=learnt,
    )
    return version.version
