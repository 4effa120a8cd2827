"""The job `retrain`: heads learn all of a project's labels, pass the gate or not, and are put in use or not; beside
them, what the project wants and calls things is learnt anew, and a mask decoder of its own is tuned."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from backend.learning.examples import known_figures, learn_project, learnt_line
from backend.learning.grid_choice import Relearn, with_grid
from backend.learning.own_decoder import OwnDecoder, tune_project
from backend.learning.samples import sampled_by
from backend.learning.training import MIN_TASKS, Trained, fingerprint, train_and_judge
from backend.pool.policy import (
    audit_tasks,
    decoder_in_use,
    heads_in_use,
    learnt_in_use,
    mask_selection_in_use,
    project_seed,
)
from backend.resources import Resources, RunProgress
from backend.store.records import ExampleRow, SampleRow
from usam.active.mask_selection import MaskSelection
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.store.head_versions import Version
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.own_decoder import TunedDecoder

_log = logging.getLogger(__name__)


def run(resources: Resources, project_id: int) -> str:
    """Train, judge, and promote or reject; returns the run's state. Run twice on the same labels, it does nothing.

    Audit tasks are never trained on. Raises `TrainingError` where training fails.
    """
    store, decoder = resources.store, decoder_in_use(resources, project_id)
    weights = sampled_by(resources.settings.model, decoder.version if decoder is not None else "")
    rows, examples = store.samples(project_id, weights), store.examples(project_id)
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

            def learn(left_out: Collection[int] = ()) -> ProjectHeads | None:
                known = [row for row in examples if row.task not in audits and row.task not in left_out]
                return _learn(resources, project_id, known, classes)

            learnt = _with_grid(resources, project_id, learn(), train, learn, progress)
            own = _tune(resources, project_id, sorted({row.task for row in rows}), audits, decoder, progress)
            _train(resources, project_id, own.samples or rows, audits, learnt, own.decoder or decoder, own, progress)
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


def _with_grid(
    resources: Resources,
    project_id: int,
    learnt: ProjectHeads | None,
    train: list[SampleRow],
    relearn: Relearn,
    progress: RunProgress,
) -> ProjectHeads | None:
    """What was learnt, with how densely images are to be looked at; as it is where that cannot be told."""
    if learnt is None:
        return None
    try:
        told = partial(progress.step, what="grid")
        in_use = partial(learnt_in_use, resources, project_id)
        return with_grid(resources, project_id, learnt, in_use, train, relearn, told)
    except UsamError as error:
        _log.warning("how densely project %s is to be looked at was not chosen: %s", project_id, error)
        return learnt


def _tune(
    resources: Resources,
    project_id: int,
    tasks: list[int],
    audits: set[int],
    in_use: TunedDecoder | None,
    progress: RunProgress,
) -> OwnDecoder:
    """A decoder of the project's own; where it cannot be tuned the one in use stays, with the reason."""
    try:
        told = partial(progress.step, what="mask decoder")
        return tune_project(resources, project_id, tasks, audits, in_use, told)
    except UsamError as error:
        return OwnDecoder(reason=f"decoder: {error}")


def _train(
    resources: Resources,
    project_id: int,
    rows: list[SampleRow],
    audits: set[int],
    learnt: ProjectHeads | None,
    decoder: TunedDecoder | None,
    own: OwnDecoder,
    progress: RunProgress,
) -> None:
    progress.step(0, 2, "training")
    train, held = ([row for row in rows if (row.task in audits) is part] for part in (False, True))
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
        **({"decoder": own.verdict.figures()} if own.verdict is not None else {}),
    }
    resources.store.put_selection_gains(project_id, progress.id, trained.gains)
    if trained.verdict is not None:
        resources.store.put_verdict(project_id, progress.id, trained.candidate.version, trained.verdict)
    heads = trained.candidate if trained.promote else champion
    version = ""
    if heads is not None and (trained.promote or learnt is not None or own.decoder is not None):
        version = _publish(resources, project_id, current, trained, heads, learnt, decoder)
    in_use = current.version if current is not None else ""
    if version and version != in_use:
        progress.state, progress.reason = "done", version_line(trained, learnt, own.reason)
        resources.registry.promote(project_id, version, progress.reason)
        progress.details["version"] = version
    else:
        progress.state, progress.reason = "rejected", "; ".join(filter(None, [trained.reason, own.reason]))
    progress.step(2, 2)


def version_line(trained: Trained, learnt: ProjectHeads | None, decoder: str) -> str:
    """Why a version is put in use, for people: where its heads are those of before, this comes last."""
    told = learnt_line(learnt) if learnt is not None else ""
    if trained.promote:
        return "; ".join(filter(None, [trained.reason, told, decoder]))
    return "; ".join(filter(None, [told, decoder, f"scores as before, {trained.reason}"]))


def _publish(
    resources: Resources,
    project_id: int,
    current: Version | None,
    trained: Trained,
    heads: HeadSet,
    learnt: ProjectHeads | None,
    decoder: TunedDecoder | None,
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
        decoder=decoder,
    )
    return version.version
