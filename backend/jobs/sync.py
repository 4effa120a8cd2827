"""The job `sync`: what Label Studio has now becomes what the store knows, and annotations become samples.

Webhooks are fired once and may be lost, so they only wake this job. It asks for the tasks touched since the last
time, compares counts so that nothing deleted stays unnoticed, and looks at every task now and then all the same.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.errors import FetchError, LabelConfigError, LabelStudioError
from backend.label_studio.config import parse_config
from backend.label_studio.records import Annotation, Project, Task
from backend.learning.samples import AnnotatedImage, sampling_key
from backend.pool.ranking import ranking_is_stale
from backend.resources import Resources, RunProgress
from backend.store.pseudo_label_store import PseudoLabelStore, accepting_version
from backend.store.records import KnownTask
from usam.errors import UsamError

FULL_EVERY_S = 900.0
OVERLAP_S = 30.0
"""Asked again each time: changes whose transaction was still open when the last sync looked."""
_RETRAIN = "START_TRAINING"


@dataclass(frozen=True)
class SyncReport:
    """What a sync found. `waked` are the jobs it asked for."""

    tasks: int
    removed: int
    annotations: int
    samples: int
    broken: int
    new_labels: int
    waked: tuple[str, ...]


def run(resources: Resources, project: int) -> SyncReport | None:
    """Bring the store up to date with Label Studio; None where the project is gone there.

    Raises `LabelStudioError` where Label Studio does not answer, and whatever keeps the model from loading.
    """
    store = resources.store
    events = store.open_events(project)
    with resources.run(project, "sync") as progress:
        try:
            known = resources.label_studio.project(project)
        except LabelStudioError as error:
            if error.status != 404:
                raise
            store.forget(project)
            progress.state, progress.reason = "skipped", "the project is gone from Label Studio"
            return None
        store.join(project, known.stamp)
        removed = refresh_tasks(resources, project)
        touched = store.unchecked_tasks(project) | _miscounted(resources, project)
        subjects = {number for event in events if "ANNOTATION" in event.action for number in event.subjects}
        touched |= {task for number in subjects if (task := store.task_of(project, number)) is not None}
        seen, made, broken = _take_annotations(resources, known, touched, progress)
        waked = _wake(resources, known, any(event.action == _RETRAIN for event in events), seen > 0)
        if waked is not None and events:
            store.handle_events(project, events[-1].id)
        report = SyncReport(len(touched), removed, seen, made, broken, store.new_labels(project), tuple(waked or ()))
        progress.details = {
            "touched": report.tasks,
            "removed": report.removed,
            "annotations": report.annotations,
            "samples": report.samples,
            "broken": report.broken,
            "new_labels": report.new_labels,
            "waked": list(report.waked),
        }
    return report


def refresh_tasks(resources: Resources, project: int) -> int:
    """Bring the store's tasks up to date. Returns how many are gone; those that changed stay `unchecked`."""
    store, client = resources.store, resources.label_studio
    cursor = store.cursor(project)
    if cursor and time.time() - store.synced_at(project) <= FULL_EVERY_S:
        changed = list(client.tasks(project, since=_earlier(cursor)))
        store.record_tasks(project, changed)
        if store.task_count(project) == client.task_count(project):
            store.advance_cursor(project, _newest(changed))
            return 0
    found = list(client.tasks(project))
    gone = {task.id for task in store.tasks(project)} - {task.id for task in found}
    if gone and client.task_count(project) != len(found):  # pages moved while they were read
        gone -= {task.id for task in client.tasks(project)}
    store.record_tasks(project, found)
    store.remove_tasks(project, gone)
    store.set_cursor(project, max(cursor, _newest(found)))
    return len(gone)


def _newest(found: Iterable[Task]) -> str:
    return max((task.updated_at for task in found), default="")


def _earlier(cursor: str) -> str:
    moment = datetime.fromisoformat(cursor.replace("Z", "+00:00")) - timedelta(seconds=OVERLAP_S)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _miscounted(resources: Resources, project: int) -> set[int]:
    """Tasks of which Label Studio counts more or fewer annotations than the store knows, or whose samples are of
    another model."""
    key = sampling_key(resources.settings.model, resources.settings.larger_model)
    counts: dict[int, int] = defaultdict(int)
    stale: set[int] = set()
    for annotation in resources.store.annotations(project):
        counts[annotation.task] += 1
        if annotation.sampled_for not in ("", key):
            stale.add(annotation.task)
    tasks = resources.store.tasks(project)
    return stale | {task.id for task in tasks if task.annotations + task.cancelled != counts[task.id]}


def _take_annotations(
    resources: Resources, known: Project, touched: Iterable[int], progress: RunProgress
) -> tuple[int, int, int]:
    """Compare annotations by `updated_at`; returns how many were taken, samples made, and annotations with
    trouble."""
    store, project = resources.store, known.id
    key = sampling_key(resources.settings.model, resources.settings.larger_model)
    tasks = {task.id: task for task in store.tasks(project)}
    all_known = store.annotations(project)
    due = set(touched) | {annotation.task for annotation in all_known if not annotation.sampled_for}
    before = {annotation.id: annotation for annotation in all_known if annotation.task in due}
    annotated = {task for task in due & tasks.keys() if tasks[task].annotations + tasks[task].cancelled}
    wanted = sorted(annotated | ({annotation.task for annotation in before.values()} & tasks.keys()))
    present = resources.label_studio.annotations(project, wanted) if wanted else []
    store.delete_annotations(project, before.keys() - {annotation.id for annotation in present})
    todo: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in present:
        old = before.get(annotation.id)
        if old is None or (old.updated_at, old.sampled_for) != (annotation.updated_at, key):
            todo[annotation.task].append(annotation)
    store.mark_tasks_synced(project, due - todo.keys())
    taken = made = broken = 0
    total = sum(map(len, todo.values()))
    for number, changed in todo.items():
        for samples, trouble in _sample_task(resources, known, tasks[number], changed, key):
            taken, made, broken = taken + 1, made + samples, broken + trouble
        store.mark_tasks_synced(project, [number])
        progress.step(taken, total, "annotations")
    return taken, made, broken


def _sample_task(
    resources: Resources, known: Project, task: KnownTask, annotations: list[Annotation], key: str
) -> Iterable[tuple[int, bool]]:
    """Store each annotation of one task with its samples. What cannot be used is stored with the reason."""
    store, image, failure, done_for = resources.store, None, "", key
    if any(_is_a_label(annotation) for annotation in annotations):
        try:
            value = parse_config(known.label_config).image_value(task.data)
            image = _annotated_image(resources, resources.images.fetch_bytes(value, task.id))
        except (FetchError, LabelConfigError) as error:
            failure, done_for = str(error), ""  # may go well the next time
        except UsamError as error:
            failure = str(error)
    for annotation in annotations:
        if annotation.cancelled or not annotation.result:
            reason = "skipped by the annotator" if annotation.cancelled else "nothing is marked"
            store.record_annotation(known.id, annotation, [], sampled_for=key, reason=reason)
            yield 0, False
        elif version := accepting_version(annotation.result):
            store.record_annotation(known.id, annotation, [], sampled_for=key, reason=f"accepted by {version}")
            yield 0, False
        elif image is None:
            store.record_annotation(known.id, annotation, [], sampled_for=done_for, reason=failure)
            yield 0, True
        else:
            rows, reason = image.samples(annotation)
            store.record_annotation(known.id, annotation, rows, sampled_for=key, reason=reason)
            yield len(rows), bool(reason)


def _annotated_image(resources: Resources, file: bytes) -> AnnotatedImage:
    model, larger = resources.model, resources.larger
    with_larger = (larger, resources.embedding(larger, file)) if larger is not None else None
    return AnnotatedImage(model, resources.embedding(model, file), with_larger)


def _is_a_label(annotation: Annotation) -> bool:
    return bool(annotation.result) and not annotation.cancelled and not accepting_version(annotation.result)


def _wake(resources: Resources, known: Project, asked: bool, labelled: bool) -> list[str] | None:
    """Ask for the jobs that are due; None where Redis did not take one, so that it is tried again."""
    waked: list[str] = []
    due = []
    if asked or resources.store.new_labels(known.id) >= resources.settings.retrain_after:
        due.append("retrain")
    if ranking_is_stale(resources, known):
        due.append("score_pool")
    if labelled and _promise_in_force(resources, known.id):
        due.append("pseudo_label")
    for job in due:
        if not resources.queue.wake(known.id, job):  # type: ignore[arg-type]
            return None
        waked.append(job)
    return waked


def _promise_in_force(resources: Resources, project: int) -> bool:
    record = PseudoLabelStore.of(resources.settings).standing(project)
    return record is not None and record.state == "written"
