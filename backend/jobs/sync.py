"""The job `sync`: what Label Studio has now becomes what the store knows, and annotations become samples.

Webhooks are fired once and may be lost, so they only wake this job. It asks for the tasks touched since the last
time, compares counts so that nothing deleted stays unnoticed, and looks at every task now and then all the same.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.errors import (
    ITEM_ERRORS,
    LabelConfigError,
    LabelStudioError,
    RegistryError,
    StoreError,
    reason_of,
)
from backend.label_studio.config import parse_config
from backend.label_studio.records import MAX_ID, Annotation, Project
from backend.label_studio.video_config import takes_masks, takes_video_boxes
from backend.learning.samples import differ_by_decoder, sampling_key
from backend.learning.task_images import TaskImages
from backend.learning.work import WorkCounter
from backend.pool.absence import Absences, is_missing
from backend.pool.kept_objects import KeptObjects
from backend.pool.policy import decoder_in_use, registry_fault
from backend.pool.ranking import ranking_is_stale
from backend.pool.tasks import UNREADABLE, TaskRefresh, refresh_tasks
from backend.resources import Resources, RunProgress
from backend.store.earlier import check_same
from backend.store.pseudo_label_store import PseudoLabelStore, accepting_version
from backend.store.records import Event, ExampleRow, KnownAnnotation, SampleRow, WorkRow

if TYPE_CHECKING:
    from usam.predictor.own_decoder import TunedDecoder

_RETRAIN = "START_TRAINING"
_log = logging.getLogger(__name__)
SET_ASIDE_SHOWN = 3
"""Items that a run's reason names; its details name them all."""


@dataclass(frozen=True)
class SyncReport:
    """What a sync found. `waked` are the jobs it asked for; `set_aside` names what could not be used, and why."""

    tasks: int
    removed: int
    annotations: int
    samples: int
    broken: int
    new_labels: int
    waked: tuple[str, ...]
    set_aside: tuple[str, ...] = ()


@dataclass
class Taken:
    """Annotations taken over, samples made of them, annotations with trouble, and what could not be stored at all."""

    annotations: int = 0
    samples: int = 0
    broken: int = 0
    set_aside: list[str] = field(default_factory=list)


def run(resources: Resources, project_id: int) -> SyncReport | None:
    """Bring the store up to date with Label Studio; None where the project is gone there.

    Raises `LabelStudioError` where Label Studio does not answer, and whatever keeps the model from loading.
    """
    store = resources.store
    events, absences = store.open_events(project_id), Absences(resources.settings.data_dir / "absent")
    with resources.run(project_id, "sync") as progress:
        try:
            project = resources.label_studio.project(project_id)
        except LabelStudioError as error:
            if not is_missing(resources.label_studio, project_id, error):
                raise
            is_gone = absences.note(project_id)
            if is_gone:
                store.forget(project_id)
            progress.state = "skipped"
            progress.reason = "the project is gone from Label Studio" + (
                "" if is_gone else "; all of it is kept for now"
            )
            return None
        absences.clear(project_id)
        check_same(store, resources.settings, project, "sync")
        store.set_classes(project_id, offered_labels(project.label_config))
        refreshed = refresh_tasks(store, resources.label_studio, project_id)
        fault = registry_fault(resources, project_id)
        key = _sampling_key(resources, decoder_in_use(resources, project_id))
        touched = store.unchecked_tasks(project_id)
        is_tracked = bool(touched) and takes_video_boxes(project.label_config)
        is_tracked = is_tracked and resources.queue.wake(project_id, "track")
        if not takes_masks(project.label_config) and takes_video_boxes(project.label_config):
            return _sync_videos(resources, project_id, touched, is_tracked, refreshed, events, progress)
        if not fault:  # else all that was made with a decoder of the project's own would be made again, twice
            touched |= store.miscounted_tasks(project_id, key)
        subjects = {number for event in events if "ANNOTATION" in event.action for number in event.subjects}
        touched |= {task for number in subjects if (task := store.task_of(project_id, number)) is not None}
        taken = take_annotations(resources, project, touched, progress)
        asked = any(event.action == _RETRAIN for event in events)
        waked = _wake(resources, project, asked, taken.annotations > 0, fault)
        if waked is not None and events:
            store.handle_events(project_id, events[-1].id)
        report = SyncReport(
            len(touched),
            refreshed.removed,
            taken.annotations,
            taken.samples,
            taken.broken,
            store.new_labels(project_id),
            tuple(waked or ()),
            (*refreshed.set_aside, *taken.set_aside),
        )
        progress.reason = "; ".join(filter(None, (fault, set_aside_line(report.set_aside))))
        progress.details = {
            "touched": report.tasks,
            "removed": report.removed,
            "annotations": report.annotations,
            "samples": report.samples,
            "broken": report.broken,
            "new_labels": report.new_labels,
            "waked": list(report.waked),
            **({"set_aside": list(report.set_aside)} if report.set_aside else {}),
        }
    return report


def _sync_videos(
    resources: Resources,
    project_id: int,
    touched: set[int],
    is_tracked: bool,
    refreshed: TaskRefresh,
    events: Sequence[Event],
    progress: RunProgress,
) -> SyncReport:
    """What is left of a sync where no masks are drawn: boxes on videos are followed, and teach nothing."""
    if is_tracked:
        resources.store.mark_tasks_synced(project_id, touched)
    if events:
        resources.store.handle_events(project_id, events[-1].id)
    progress.reason = set_aside_line(refreshed.set_aside)
    progress.details = {"touched": len(touched), "removed": refreshed.removed, "waked": ["track"] * is_tracked}
    waked = ("track",) if is_tracked else ()
    return SyncReport(len(touched), refreshed.removed, 0, 0, 0, 0, waked, refreshed.set_aside)


def offered_labels(label_config: str) -> list[str]:
    """The labels that masks can be given, in the configuration's order; none where it cannot be read."""
    try:
        controls = parse_config(label_config)
    except LabelConfigError:
        return []
    return list(dict.fromkeys(controls.labels))


def set_aside_line(items: Sequence[str]) -> str:
    """What was set aside, for people; empty where nothing was."""
    shown = "; ".join(items[:SET_ASIDE_SHOWN])
    more = f"; and {len(items) - SET_ASIDE_SHOWN} more" if len(items) > SET_ASIDE_SHOWN else ""
    return f"{len(items)} set aside: {shown}{more}" if items else ""


def take_annotations(resources: Resources, project: Project, touched: Iterable[int], progress: RunProgress) -> Taken:
    """Compare annotations by `updated_at` and take over those that changed, each with its samples."""
    store, decoder = resources.store, decoder_in_use(resources, project.id)
    key = _sampling_key(resources, decoder)
    due = set(touched) | store.unsampled_tasks(project.id)
    before = {annotation.id: annotation for annotation in store.annotations(project.id, on=due)}
    annotated = {annotation.task for annotation in before.values()}
    answered = [
        one
        for one in store.tasks(project.id, only=sorted(due))
        if one.annotations + one.cancelled or one.id in annotated
    ]
    tasks = {task.id: task for task in answered}
    wanted, unreadable, taken = sorted(tasks), list[int](), Taken()
    present = resources.label_studio.annotations(project.id, wanted, unreadable=unreadable) if wanted else []
    taken.set_aside += [f"annotations of task {number}: {UNREADABLE}" for number in unreadable]
    told = {number for number, one in before.items() if one.task not in unreadable}
    store.delete_annotations(project.id, told - {annotation.id for annotation in present})
    todo: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in present:
        old = before.get(annotation.id)
        if not 0 < annotation.id <= MAX_ID:
            name = f"annotation {str(annotation.id)[:40]} of task {annotation.task}"
            taken.set_aside.append(f"{name}: expected a number from 1 to {MAX_ID}")
        elif old is None or (old.updated_at, old.sampled_for) != (annotation.updated_at, key):
            todo[annotation.task].append(annotation)
    store.mark_tasks_synced(project.id, due - todo.keys() - set(unreadable))
    total = sum(map(len, todo.values()))
    counter = WorkCounter(resources, project.id, project.label_config)
    for number, changed in todo.items():
        known = {one.id: before[one.id] for one in changed if one.id in before}
        images = TaskImages(resources, project.label_config, tasks[number], decoder)
        made = _sample_task(resources, project, images, changed, known, key, counter, taken.set_aside)
        for samples, is_broken in made:
            taken.annotations, taken.samples = taken.annotations + 1, taken.samples + samples
            taken.broken += is_broken
        store.mark_tasks_synced(project.id, [number])
        progress.step(taken.annotations, total, "annotations")
    return taken


def _sampling_key(resources: Resources, decoder: TunedDecoder | None) -> str:
    settings = resources.settings
    return sampling_key(settings.model, settings.larger_model, decoder.version if decoder is not None else "")


def _sample_task(
    resources: Resources,
    project: Project,
    images: TaskImages,
    annotations: Sequence[Annotation],
    known: Mapping[int, KnownAnnotation],
    key: str,
    counter: WorkCounter,
    set_aside: list[str],
) -> Iterator[tuple[int, bool]]:
    """Store each annotation of one task with its samples, and the work that those took that are not `known` as they are
    now; yields how many samples, and whether something is wrong. What cannot be used is stored with the reason; what
    cannot be stored either is named in `set_aside`."""
    store, kept = resources.store, kept_objects(resources, project.id, annotations[0].task)
    for annotation in annotations:
        old = known.get(annotation.id)
        old = old if old is not None and old.updated_at == annotation.updated_at else None
        rows: list[SampleRow] = []
        examples: ExampleRow | None = None
        work: WorkRow | None = None
        is_broken, made_for = False, key
        if annotation.cancelled:
            reason = "skipped by the annotator"
        elif version := accepting_version(annotation.result):
            reason = f"accepted by {version}"
        else:
            rows, reason = images.samples(annotation) if annotation.result else ([], "")
            is_broken = bool(reason)
            examples, trouble = images.examples(annotation, kept)
            work = counter.of(annotation, kept) if old is None else None
            reason = reason or trouble or ("" if annotation.result else "nothing is marked")
            made_for = "" if images.try_again else key
        is_known = old is not None and (not old.sampled_for or differ_by_decoder(old.sampled_for, key))
        used = old.used_in if old is not None and is_known else 0  # the same labels, on other tokens or another image
        try:
            store.record_annotation(
                project.id,
                annotation,
                rows,
                sampled_for=made_for,
                reason=reason,
                used_in=used,
                examples=examples,
                work=work,
            )
        except ITEM_ERRORS as error:
            set_aside.append(f"annotation {annotation.id} of task {annotation.task}: {reason_of(error)}")
            continue
        yield len(rows), is_broken


def kept_objects(resources: Resources, project_id: int, task_id: int) -> KeptObjects | None:
    """What the pool has kept of a task; None where it has nothing that can be read."""
    row = resources.store.proposal_rows(project_id, [task_id]).get(task_id)
    if row is None or not row.arrays:
        return None
    try:
        return KeptObjects.unpack(row)
    except StoreError:
        return None


def _wake(resources: Resources, project: Project, asked: bool, labelled: bool, fault: str) -> list[str] | None:
    """Ask for the jobs that are due; None where Redis did not take one, so that it is tried again, or where a training
    was asked for and a `fault` of the registry keeps it from beginning."""
    if fault:
        return None if asked else []
    waked: list[str] = []
    due = []
    if (
        asked
        or _classes_changed(resources, project.id)
        or resources.store.new_labels(project.id) >= resources.settings.retrain_after
    ):
        due.append("retrain")
    if ranking_is_stale(resources, project):
        due.append("score_pool")
    asked_for = resources.store.waiting_acceptance(project.id) is not None
    if asked_for or (labelled and _promise_in_force(resources, project.id)):
        due.append("pseudo_label")
    for job in due:
        if not resources.queue.wake(project.id, job):  # type: ignore[arg-type]
            return None
        waked.append(job)
    return waked


def _classes_changed(resources: Resources, project_id: int) -> bool:
    """Whether the version in use has learnt other labels than the configuration offers now."""
    try:
        current = resources.registry.current(project_id)
    except RegistryError:
        return False
    return (
        current is not None and bool(current.classes) and list(current.classes) != resources.store.classes(project_id)
    )


def _promise_in_force(resources: Resources, project_id: int) -> bool:
    try:
        record = PseudoLabelStore.of(resources.settings).standing(project_id)
    except StoreError as error:  # what it is about waits for a person, labels do not
        _log.warning("the promise of project %s is not watched: %s", project_id, error)
        return False
    return record is not None and record.state == "written"
