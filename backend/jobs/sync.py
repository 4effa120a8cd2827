"""The job `sync`: what Label Studio has now becomes what the store knows, and annotations become samples.

Webhooks are fired once and may be lost, so they only wake this job. It asks for the tasks touched since the last
time, compares counts so that nothing deleted stays unnoticed, and looks at every task now and then all the same.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from backend.errors import (
    ITEM_ERRORS,
    FetchError,
    LabelConfigError,
    LabelStudioError,
    RegistryError,
    StoreError,
    reason_of,
)
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import MAX_ID, Annotation, Project
from backend.label_studio.shapes import drawn_masks, masks_on
from backend.learning.examples import make_examples
from backend.learning.samples import AnnotatedImage, sampling_key
from backend.learning.work import WorkCounter
from backend.pool.absence import Absences, is_missing
from backend.pool.kept_objects import KeptObjects
from backend.pool.ranking import ranking_is_stale
from backend.pool.tasks import refresh_tasks
from backend.resources import Resources, RunProgress
from backend.store.pseudo_label_store import PseudoLabelStore, accepting_version
from backend.store.records import ExampleRow, KnownTask, SampleRow, WorkRow

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
        store.take_stamp(project_id, project.stamp)
        store.set_classes(project_id, offered_labels(project.label_config))
        refreshed = refresh_tasks(store, resources.label_studio, project_id)
        key = sampling_key(resources.settings.model, resources.settings.larger_model)
        touched = store.unchecked_tasks(project_id)
        touched |= store.miscounted_tasks(project_id, key)
        subjects = {number for event in events if "ANNOTATION" in event.action for number in event.subjects}
        touched |= {task for number in subjects if (task := store.task_of(project_id, number)) is not None}
        taken = take_annotations(resources, project, touched, progress)
        asked = any(event.action == _RETRAIN for event in events)
        waked = _wake(resources, project, asked, taken.annotations > 0)
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
        progress.reason = set_aside_line(report.set_aside)
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
    store, key = resources.store, sampling_key(resources.settings.model, resources.settings.larger_model)
    due = set(touched) | store.unsampled_tasks(project.id)
    before = {annotation.id: annotation for annotation in store.annotations(project.id, on=due)}
    known = {annotation.task for annotation in before.values()}
    answered = [
        one for one in store.tasks(project.id, only=sorted(due)) if one.annotations + one.cancelled or one.id in known
    ]
    tasks = {task.id: task for task in answered}
    wanted = sorted(tasks)
    present = resources.label_studio.annotations(project.id, wanted) if wanted else []
    store.delete_annotations(project.id, before.keys() - {annotation.id for annotation in present})
    todo: dict[int, list[Annotation]] = defaultdict(list)
    taken = Taken()
    for annotation in present:
        old = before.get(annotation.id)
        if not 0 < annotation.id <= MAX_ID:
            name = f"annotation {str(annotation.id)[:40]} of task {annotation.task}"
            taken.set_aside.append(f"{name}: expected a number from 1 to {MAX_ID}")
        elif old is None or (old.updated_at, old.sampled_for) != (annotation.updated_at, key):
            todo[annotation.task].append(annotation)
    store.mark_tasks_synced(project.id, due - todo.keys())
    total = sum(map(len, todo.values()))
    counter = WorkCounter(resources, project.id, project.label_config)
    for number, changed in todo.items():
        seen = {one.id: before[one.id].updated_at for one in changed if one.id in before}
        fresh = {one.id for one in changed if seen.get(one.id) != one.updated_at}
        made = _sample_task(resources, project, tasks[number], changed, fresh, key, counter, taken.set_aside)
        for samples, is_broken in made:
            taken.annotations, taken.samples = taken.annotations + 1, taken.samples + samples
            taken.broken += is_broken
        store.mark_tasks_synced(project.id, [number])
        progress.step(taken.annotations, total, "annotations")
    return taken


def _sample_task(
    resources: Resources,
    project: Project,
    task: KnownTask,
    annotations: Sequence[Annotation],
    fresh: Collection[int],
    key: str,
    counter: WorkCounter,
    set_aside: list[str],
) -> Iterator[tuple[int, bool]]:
    """Store each annotation of one task with its samples, and the work that those in `fresh` took; yields how many
    samples, and whether something is wrong. What cannot be used is stored with the reason; what cannot be stored
    either is named in `set_aside`."""
    store, images = resources.store, TaskImages(resources, project.label_config, task)
    kept = kept_objects(resources, project.id, task.id)
    for annotation in annotations:
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
            work = counter.of(annotation, kept) if annotation.id in fresh else None
            reason = reason or trouble or ("" if annotation.result else "nothing is marked")
            made_for = "" if images.try_again else key
        try:
            store.record_annotation(
                project.id, annotation, rows, sampled_for=made_for, reason=reason, examples=examples, work=work
            )
        except ITEM_ERRORS as error:
            set_aside.append(f"annotation {annotation.id} of task {task.id}: {reason_of(error)}")
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


class TaskImages:
    """The images of one task, each fetched and encoded once, when the first region on it is met.

    `try_again` says that one could not be had now, and may be later.
    """

    def __init__(self, resources: Resources, label_config: str, task: KnownTask) -> None:
        self.try_again = False
        self._resources, self._label_config, self._task = resources, label_config, task
        self._images: dict[str, AnnotatedImage | str] = {}

    def samples(self, annotation: Annotation) -> tuple[list[SampleRow], str]:
        """The samples of an annotation, and why regions that have none have none."""
        rows: list[SampleRow] = []
        drawn, reasons = drawn_masks(annotation.result)
        for name in dict.fromkeys(one.image for one in drawn):
            image = self._image(name)
            if isinstance(image, str):
                reasons.append(image)
                continue
            made, reason = image.samples(annotation, [one for one in drawn if one.image == name])
            rows += made
            reasons.append(reason)
        return rows, "; ".join(filter(None, reasons))[:2000]

    def examples(self, annotation: Annotation, kept: KeptObjects | None) -> tuple[ExampleRow | None, str]:
        """What the objects of an annotation, and the model's own candidates, look like on the first image; and why that
        cannot be told, if it cannot."""
        settings = self._resources.settings
        if not annotation.result:  # nothing is wanted of what the pool has kept of it
            known = (kept.looks, kept.masks.logits(range(len(kept))) > 0) if kept is not None else None
            in_part = settings.marked_in_part
            return (make_examples(annotation, (), known, None, marked_in_part=in_part) if known else None), ""
        image = self._image("")
        if isinstance(image, str):
            return None, image
        drawn = masks_on(parse_config(self._label_config).image_name, annotation.result)
        try:
            return image.examples(annotation, drawn, kept, settings), ""
        except ITEM_ERRORS as error:
            return None, f"its objects teach no class: {reason_of(error)}"

    def _image(self, name: str) -> AnnotatedImage | str:
        """The image of the tag `name`, the first one for an empty name; or why it is not to be had."""
        try:
            view = parse_config(self._label_config).for_image(name)
        except LabelConfigError as error:
            return str(error)
        if view.image_name not in self._images:
            self._images[view.image_name] = self._fetched(view)
        return self._images[view.image_name]

    def _fetched(self, view: LabelConfig) -> AnnotatedImage | str:
        try:
            value = view.image_value(self._task.data)
            return _annotated_image(self._resources, self._resources.images.fetch_bytes(value, self._task.id))
        except (FetchError, LabelConfigError) as error:
            self.try_again = True
            return str(error)
        except ITEM_ERRORS as error:
            return reason_of(error)


def _annotated_image(resources: Resources, file: bytes) -> AnnotatedImage:
    model, larger = resources.model, resources.larger
    with_larger = (larger, resources.embedding(larger, file)) if larger is not None else None
    return AnnotatedImage(model, resources.embedding(model, file), with_larger)


def _wake(resources: Resources, project: Project, asked: bool, labelled: bool) -> list[str] | None:
    """Ask for the jobs that are due; None where Redis did not take one, so that it is tried again."""
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
    if labelled and _promise_in_force(resources, project.id):
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
