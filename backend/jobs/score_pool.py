"""The job `score_pool`: every unlabelled task gets masks, a place in the queue and the reason for it.

What the model says of a task is kept as soon as it is known, so that a killed run goes on where it stopped, and a
run after a retraining only scores tokens again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import ITEM_ERRORS, JobError, reason_of
from backend.inference.intake import SourceImage
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Json, Project
from backend.pool.policy import OWN_MODEL, heads_in_use, mask_selection_in_use, settings_key, strategy_for
from backend.pool.proposals import (
    LabelledObjects,
    ObjectScores,
    pack,
    proposal_key,
    propose_objects,
    rescored,
    score_many,
    to_regions,
    unpack,
)
from backend.pool.publication import delete_others, verify, write
from backend.pool.ranking import PoolTask, rank, ranking_is_stale
from backend.pool.refined_masks import alternative_predictions
from backend.pool.refinement import offer_alternatives, refine_pool_if_needed
from backend.pool.tasks import refresh_tasks
from backend.resources import Resources, RunProgress
from backend.store.records import KnownTask, ProposalRow, ScoreRow, storable_text

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

_SCORED_AT_ONCE = 256
_KEPT_BEHIND = 2
"""Images whose masks may wait to be kept."""


def run(resources: Resources, project: int) -> None:
    """Rank the pool where the order in use is no longer right, else only note that it is.

    Raises `LabelStudioError` where Label Studio does not answer, `JobError` where no task could be used.
    """
    known = resources.label_studio.project(project)
    resources.store.join(project, known.stamp)
    key = settings_key(resources.settings, resources.registry.champion(project), known.label_config)
    with resources.run(project, "score_pool", fingerprint=key) as progress:
        refresh_tasks(resources.store, resources.label_studio, project)
        if not ranking_is_stale_before(resources, known, progress.id):
            progress.state, progress.reason = "skipped", "the order in use is right"
            return
        _rank_pool(resources, known, progress)


def ranking_is_stale_before(resources: Resources, known: Project, run_id: int) -> bool:
    """As `ranking_is_stale`, judged by the runs before `run_id`."""
    before = [past for past in resources.store.runs(known.id, "score_pool", limit=2) if past.id < run_id]
    if not before or before[0].state not in ("done", "skipped"):
        return bool(resources.store.tasks(known.id, unlabelled=True))
    return bool(ranking_is_stale(resources, known))


def _rank_pool(resources: Resources, known: Project, progress: RunProgress) -> None:
    store, client, project = resources.store, resources.label_studio, known.id
    started = time.perf_counter()
    pool = store.tasks(project, unlabelled=True)
    if not pool:
        progress.state, progress.reason = "skipped", "every task is labelled"
        return
    controls = parse_config(known.label_config)
    heads, passed_over = heads_in_use(resources, project)
    strategy, fallback = strategy_for(resources.settings, heads)
    made = propose_missing(resources, known, pool, heads, controls, progress)
    choice = mask_selection_in_use(resources, project, heads)
    act = partial(refine_pool_if_needed, resources, project, pool, heads, controls, choice, progress, made)
    acting = act(("larger",))
    version = f"{resources.settings.model}+{heads.version if heads else 'no-heads'}.{progress.id}"
    scored = time.perf_counter()
    subjects = list(_subjects(resources, pool, known, heads))
    rows = rank(subjects, heads, resources.settings, project, version)
    failed = sum(bool(subject.failure) for subject in subjects)
    if failed == len(subjects):
        raise JobError("an image that can be read", f"{failed} that cannot; {subjects[0].failure}", "see the settings")
    objects = {subject.task: subject.objects for subject in subjects}
    keys = {task.id: proposal_key(resources.settings, known.label_config, task.data_key, choice) for task in pool}

    def prediction_of(row: ScoreRow) -> Json:
        regions = _kept_regions(resources, project, row.task, keys[row.task])
        return {
            "task": row.task,
            "score": row.confidence,
            "result": rescored(regions, objects[row.task], controls) if objects[row.task] else [],
        }

    ranked = time.perf_counter()
    published = write(client, project, rows, prediction_of, version)
    rows = published.rows
    store.put_scores(project, rows)
    store.set_served(project, published.version)
    switched = time.perf_counter()
    offered = 0
    acting |= act(("alternatives",))  # needs no place in the order: nobody waits for it
    if acting.get("alternatives", {}).get("total", {}).get("acted"):
        others = alternative_predictions(resources, project, rows, objects, controls, published.version)
        offered = offer_alternatives(resources, project, others)
    trouble = verify(client, project, published.version, rows[0].task)
    deleted = delete_others(client, project, published.version)
    progress.reason = "; ".join(filter(None, (passed_over, fallback, trouble))) or f"first is task {rows[0].task}"
    progress.details = {
        "version": published.version,
        "strategy": strategy,
        "tasks": len(rows),
        "proposed": made,
        "failed": failed,
        "verified": not trouble,
        "deleted": deleted,
        "mask_choice": choice,
        "acting": acting,
        "alternatives": offered,
        "seconds": {
            "propose": round(scored - started, 3),
            "rank": round(ranked - scored, 3),
            "write": round(published.write_s, 3),
            "switch": round(published.switch_s, 3),
            "until_served": round(switched - started, 3),
            "delete": round(time.perf_counter() - switched, 3),
        },
    }
    progress.step(len(rows), len(rows))


def propose_missing(
    resources: Resources,
    known: Project,
    pool: Sequence[KnownTask],
    heads: HeadSet | None,
    controls: LabelConfig,
    progress: RunProgress,
) -> int:
    """Ask the model about every task it has not been asked about; returns how many.

    The model does not wait: the next image is fetched, and what it said of the last one is made into regions and kept,
    while it works.
    """
    store, project, settings = resources.store, known.id, resources.settings
    cached = store.proposal_keys(project)
    choice = mask_selection_in_use(resources, project, heads)
    keys = {task.id: proposal_key(resources.settings, known.label_config, task.data_key, choice) for task in pool}
    missing = [task for task in pool if cached.get(task.id) != keys[task.id]]
    done = len(pool) - len(missing)
    served = {row.task for row in store.ranking(project)}

    def keep(task: int, found: LabelledObjects | Exception) -> None:
        try:
            if isinstance(found, Exception):
                raise found
            arrays, regions = to_regions(found, heads, resources.settings.model, controls, resources.settings)
            row = pack(task, keys[task], arrays, regions)
        except ITEM_ERRORS as error:
            row = ProposalRow(task, "", b"", [], storable_text(reason_of(error)))  # no key: asked again the next time
        store.put_proposal(project, row)

    keeping: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead,
        ThreadPoolExecutor(1, thread_name_prefix="keep") as behind,
    ):
        for task, fetched in _fetch_ahead(ahead, resources, controls, missing):
            progress.step(done, len(pool), "images")
            others = []
            if task.predictions > (task.id in served):
                stored = resources.label_studio.predictions(project, [task.id])
                others = [one for one in stored if not OWN_MODEL.fullmatch(one.model_version)]
            found: LabelledObjects | Exception
            try:
                image = fetched.result()
                embedding = image.encoded_by(resources.model)
                behind.submit(resources.embeddings.put, image.content, settings.model, embedding, make_room=False)
                found = propose_objects(
                    resources.model, heads, embedding, settings, others, choice, controls.image_name
                )
            except ITEM_ERRORS as error:
                found = error
            keeping.append(behind.submit(keep, task.id, found))
            if len(keeping) > _KEPT_BEHIND:
                keeping.popleft().result()
            done += 1
        for one in keeping:
            one.result()
    return len(missing)


def _fetch_ahead(
    pool: ThreadPoolExecutor, resources: Resources, controls: LabelConfig, tasks: Sequence[KnownTask]
) -> Iterator[tuple[KnownTask, Future[SourceImage]]]:
    """Each task with its image, the next one being fetched while the model works on this one."""

    def fetch(task: KnownTask) -> SourceImage:
        file = resources.images.fetch_bytes(controls.image_value(task.data), task.id)
        return resources.source(file, resources.settings.model)

    waiting: deque[tuple[KnownTask, Future[SourceImage]]] = deque()
    for task in tasks:
        waiting.append((task, pool.submit(fetch, task)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _subjects(
    resources: Resources, pool: Sequence[KnownTask], known: Project, heads: HeadSet | None
) -> Iterator[PoolTask]:
    """Every task with its objects' scores, from what is kept."""
    store, project = resources.store, known.id
    for start in range(0, len(pool), _SCORED_AT_ONCE):
        part = pool[start : start + _SCORED_AT_ONCE]
        rows = store.proposal_rows(project, [task.id for task in part])
        arrays = {task: unpack(row) for task, row in rows.items() if row.arrays}
        scores: dict[int, list[ObjectScores]] = dict(
            zip(arrays, score_many(heads, resources.settings.model, list(arrays.values())), strict=True)
        )
        for task in part:
            if task.id in arrays:
                features = np.asarray(arrays[task.id]["features"], np.float32)
                yield PoolTask(task.id, scores[task.id], features)
            else:
                row = rows.get(task.id)
                yield PoolTask(task.id, [], None, row.reason if row else "not looked at yet")


def _kept_regions(resources: Resources, project: int, task: int, key: str) -> list[Json]:
    row = resources.store.proposal(project, task, key)
    return row.regions if row else []
