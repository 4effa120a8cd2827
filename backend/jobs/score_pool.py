"""The job `score_pool`: every unlabelled task gets masks, a place in the queue and the reason for it.

What the model says of a task is kept as soon as it is known, so that a killed run goes on where it stopped, and a
run after a retraining only scores tokens again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from backend.errors import ITEM_ERRORS, JobBusy, JobError, LabelStudioError, reason_of
from backend.inference.shown import ShownObjects
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Json, Project
from backend.pool.kept_objects import READ_AT_ONCE, KeptObjects, drawings_of, read_kept
from backend.pool.policy import settings_key, strategy_for, usable_decoder, version_in_use
from backend.pool.proposals import ScoredObjects, draw_shown, regions_of
from backend.pool.proposing import ProposalPlan
from backend.pool.publication import Publication, delete_before, revise, verify, write
from backend.pool.ranking import PoolTask, rank, ranking_is_stale
from backend.pool.refined_masks import alternative_predictions
from backend.pool.refinement import offer_alternatives, refine_pool_if_needed
from backend.pool.revision import Revision, revision
from backend.pool.sharing import propose_missing
from backend.pool.tasks import refresh_tasks
from backend.resources import Resources, RunProgress
from backend.store.earlier import check_same
from backend.store.records import KnownTask, ProposalRow, ScoreRow

_log = logging.getLogger(__name__)
AUDIT_NOTE = "this task is an audit, drawn at random: mark all that is wanted on it"
TIDY_S = 45.0


def run(resources: Resources, project: int) -> None:
    """Rank the pool where the order in use is no longer right, else only note that it is.

    Raises `LabelStudioError` where Label Studio does not answer, `JobError` where no task could be used.
    """
    known = resources.label_studio.project(project)
    check_same(resources.store, resources.settings, known, "score_pool")
    key = settings_key(resources.settings, resources.registry.champion(project), known.label_config)
    with resources.run(project, "score_pool", fingerprint=key) as progress:
        refresh_tasks(resources.store, resources.label_studio, project)
        if not ranking_is_stale_before(resources, known, progress.id):
            progress.state, progress.reason = "skipped", "the order in use is right"
            return
        _rank_pool(resources, known, progress, key)


def tidy(resources: Resources, project: int) -> None:
    """Delete the rankings before the one in use, for as long as no other job waits and `TIDY_S` at most: each sync goes
    on with it. It holds no lease that a ranking needs, and leaves alone what a ranking writes meanwhile.

    Raises `LabelStudioError` where Label Studio does not answer.
    """
    served = resources.store.served(project)
    if not served:
        return
    end = time.monotonic() + TIDY_S
    with suppress(JobBusy), resources.lease(f"tidy-{project}"):
        for name in delete_before(
            resources.label_studio,
            project,
            served,
            lambda: time.monotonic() < end and not resources.queue.others_wait(project),
        ):
            _log.info("deleted the ranking %s of project %s", name, project)


def ranking_is_stale_before(resources: Resources, known: Project, run_id: int) -> bool:
    """As `ranking_is_stale`, judged by the runs before `run_id`."""
    before = [past for past in resources.store.runs(known.id, "score_pool", limit=2) if past.id < run_id]
    if not before or before[0].state not in ("done", "skipped"):
        return bool(resources.store.unranked(known.id)[0])
    return bool(ranking_is_stale(resources, known))


def _rank_pool(resources: Resources, known: Project, progress: RunProgress, key: str) -> None:
    store, client, project = resources.store, resources.label_studio, known.id
    started = time.perf_counter()
    pool = store.tasks(project, unlabelled=True)
    if not pool:
        progress.state, progress.reason = "skipped", "every task is labelled"
        return
    plan = ProposalPlan.of(resources, known)
    heads = plan.heads
    strategy, fallback = strategy_for(resources.settings, heads)
    remade = {task.id for task in plan.missing(pool)}
    shared = propose_missing(plan, pool, progress)
    made = shared.tasks
    act = partial(refine_pool_if_needed, plan, pool, progress, made)
    acting = act(("larger",))
    version = f"{resources.settings.model}+{version_in_use(resources, project, heads)}.{progress.id}"
    scored = time.perf_counter()
    subjects = list(_score(plan, pool))
    rows = rank(subjects, heads, resources.settings, project, version)
    failed = sum(bool(subject.failure) for subject in subjects)
    if failed == len(subjects):
        raise JobError("an image that can be read", f"{failed} that cannot; {subjects[0].failure}", "see the settings")
    ranked = time.perf_counter()
    if not store.is_running(progress.id):  # as after a store that did not answer for longer than a lease holds
        raise JobBusy("this ranking to be the newest", "a later one", "that one is published")
    change = _change(resources, known, progress.id, key, rows, remade)
    writer = partial(_Writer, plan, pool, subjects)
    published, written = _publish(client, project, rows, writer, version, change)
    rows = published.rows
    store.put_scores(project, rows)
    store.set_served(project, published.version)
    switched = time.perf_counter()
    offered = 0
    acting |= act(("alternatives",), subjects)  # needs no place in the order: nobody waits for it
    if acting.get("alternatives", {}).get("total", {}).get("acted"):
        others = alternative_predictions(plan, written, published.version)
        offered = offer_alternatives(resources, project, others)
    trouble = verify(client, project, published.version, rows[0].task)
    _, unused = usable_decoder(resources.registry, project, resources.registry.champion(project), resources.settings)
    progress.reason = (
        "; ".join(filter(None, (plan.passed_over, unused, fallback, trouble))) or f"first is task {rows[0].task}"
    )
    progress.details = {
        "version": published.version,
        "strategy": strategy,
        "tasks": len(rows),
        "written": len(written),
        "proposed": made,
        "shards": shared.shards,
        "workers": shared.workers,
        "failed": failed,
        "shown": sum(len(subject.shown.rows) for subject in subjects if subject.shown is not None),
        "verified": not trouble,
        "mask_choice": plan.selection,
        "acting": acting,
        "alternatives": offered,
        "seconds": {
            "propose": round(scored - started, 3),
            "rank": round(ranked - scored, 3),
            "write": round(published.write_s, 3),
            "switch": round(published.switch_s, 3),
            "until_served": round(switched - started, 3),
        },
    }
    progress.step(len(rows), len(rows))


def _change(
    resources: Resources, known: Project, run_id: int, key: str, rows: Sequence[ScoreRow], remade: set[int]
) -> Revision | None:
    """What has to be written, where the order that is served was made by the same heads and settings and wholly
    written; None where all has to."""
    store, served = resources.store, resources.store.served(known.id)
    before = [past for past in store.runs(known.id, "score_pool", limit=2) if past.id < run_id]
    done = store.last_run(known.id, "score_pool", ("done",))
    if (
        not served
        or known.model_version != served
        or not before
        or before[0].state not in ("done", "skipped")
        or done is None
        or done.fingerprint != key
        or resources.settings.larger_model
    ):
        return None
    return revision({row.task: row for row in store.ranking(known.id)}, rows, served, remade)


def _publish(
    client: LabelStudio,
    project: int,
    rows: Sequence[ScoreRow],
    writer: Callable[[Sequence[ScoreRow]], _Writer],
    version: str,
    change: Revision | None,
) -> tuple[Publication, list[ScoreRow]]:
    """Write the order; and the rows that were written for it."""
    if change is not None:
        try:
            served = change.rows[0].version
            return revise(client, project, change, writer(change.written).prediction_of, served), change.written
        except LabelStudioError as error:
            if error.status not in (400, 404, 500):
                raise
    published = write(client, project, rows, writer(rows).prediction_of, version)
    return published, published.rows


def _score(plan: ProposalPlan, pool: Sequence[KnownTask]) -> Iterator[PoolTask]:
    """Every task with its candidates' scores, from what is kept."""
    for batch in read_kept(plan.resources.store, plan.project, [task.id for task in pool]):
        scored = dict(zip(batch.objects, plan.scored(batch.objects.values()), strict=True))
        for task in batch.tasks:
            if task in scored:
                yield PoolTask.of(task, scored[task])
            else:
                row = batch.rows.get(task)
                yield PoolTask(task, failure=row.reason if row else "not looked at yet")


class _Writer:
    """Makes the prediction of each task that is written. Objects that are shown now and were not before are drawn, and
    the drawings kept."""

    def __init__(
        self, plan: ProposalPlan, tasks: Sequence[KnownTask], subjects: Sequence[PoolTask], rows: Sequence[ScoreRow]
    ) -> None:
        self._store, self._settings, self._controls = plan.resources.store, plan.resources.settings, plan.controls
        self._project, self._tasks = plan.project, {task.id: task for task in tasks}
        self._rows, self._stored = rows, dict[int, ProposalRow]()
        self._numbers = {row.task: number for number, row in enumerate(rows)}
        self._subjects = {subject.task: subject for subject in subjects}

    def prediction_of(self, row: ScoreRow) -> Json:
        """The task's regions, score included. A task whose masks cannot be had now gets none."""
        subject, task = self._subjects[row.task], self._tasks[row.task]
        result: list[Json] = []
        if subject.shown is not None and row.shown:
            try:
                note = AUDIT_NOTE if row.is_audit else ""
                result = self._regions(subject, subject.shown, task, self._stored_for(row), note)
            except ITEM_ERRORS as error:
                _log.warning("task %s is ranked without its masks: %s", row.task, reason_of(error))
        return {"task": row.task, "score": row.confidence, "result": result}

    def _stored_for(self, row: ScoreRow) -> ProposalRow:
        """What is kept of a task; that of those after it is read with it."""
        if row.task not in self._stored:
            first = self._numbers[row.task]
            part = self._rows[first : first + READ_AT_ONCE]
            self._stored = self._store.proposal_rows(self._project, [one.task for one in part])
        return self._stored[row.task]

    def _regions(
        self, subject: PoolTask, shown: ShownObjects, task: KnownTask, stored: ProposalRow, note: str
    ) -> list[Json]:
        kept, before = KeptObjects.unpack(stored), drawings_of(stored)
        scored = ScoredObjects(kept, subject.iou, dict(subject.columns), shown)
        drawings = draw_shown(scored, self._controls, self._settings, task.data, before)
        if any(drawing is not before.get(number) for number, drawing in drawings.items()):
            self._store.put_proposal(self._project, kept.pack(task.id, stored.key, before | drawings))
        return regions_of(scored, drawings, self._controls, self._settings, task.data, note=note)
