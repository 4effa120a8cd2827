"""From proposals that are kept to masks that may be accepted, and to how good those of audit tasks turned out.

Legend: H, W image in pixels. A proposal's true IoU is its highest with an object that a person marked in that image;
where none was marked near it, the proposal is wrong and its IoU low. So audits judge just what is accepted elsewhere:
proposals, made in the same way, before anybody looked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS, RegionError, reason_of
from backend.label_studio.config import LabelConfig
from backend.label_studio.records import Annotation, Json
from backend.label_studio.regions import Drawing
from backend.label_studio.shapes import masks_on, region_to_mask
from backend.learning.examples import box_of
from backend.pool.kept_objects import drawings_of, read_kept
from backend.pool.proposals import ScoredObjects, score_many
from backend.resources import Resources
from backend.store.pseudo_label_store import accepting_version
from usam.pseudo_labels.calibration import Candidates

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads


@dataclass(frozen=True)
class ScoredTask:
    """What is kept of one task's candidates, scored; those that are shown may be accepted."""

    task: int
    objects: ScoredObjects = field(repr=False)
    drawings: Mapping[int, Drawing] = field(default_factory=dict, repr=False)

    @property
    def numbers(self) -> list[int]:
        """Of the candidates that are shown."""
        return sorted(self.objects.shown.rows.tolist())


@dataclass(frozen=True)
class Audit:
    """Audited masks with their true IoUs; `last_label` is the newest annotation among them, `left_out` says which tasks
    could not be judged and why."""

    candidates: Candidates
    last_label: int
    left_out: dict[int, str]


def scored_tasks(
    resources: Resources, project: int, tasks: Sequence[int], heads: HeadSet | None, learnt: ProjectHeads | None
) -> dict[int, ScoredTask]:
    """Proposals of these tasks, scored by `heads` and chosen by what was `learnt`; tasks without are not among them."""
    found: dict[int, ScoredTask] = {}
    for batch in read_kept(resources.store, project, tasks):
        scored = score_many(heads, learnt, resources.settings, list(batch.objects.values()))
        for task, objects in zip(batch.objects, scored, strict=True):
            found[task] = ScoredTask(task, objects, drawings_of(batch.rows[task]))
    return found


def pool_candidates(tasks: Iterable[ScoredTask], controls: LabelConfig) -> Candidates:
    """The masks of tasks that nobody has labelled, without those that nobody could name: where labels are offered, a
    mask that has none is no answer."""
    known = list(tasks)
    return _candidates(known, {one.task: np.array(_acceptable(one, controls), np.int64) for one in known}, None)


def _acceptable(scored: ScoredTask, controls: LabelConfig) -> list[int]:
    """The shown objects that have a label, or need none."""
    return [number for number in scored.numbers if final_label(scored, number, controls) is not None]


def final_label(scored: ScoredTask, number: int, controls: LabelConfig) -> str | None:
    """The label that an object would be accepted with, empty where the configuration has none; None where it needs one
    and nobody, nor anything learnt, can tell it."""
    placement = scored.objects.placed(number, controls)
    return "" if placement.output.source is None else placement.label


def audit_candidates(
    tasks: Mapping[int, ScoredTask], annotations: Iterable[Annotation], controls: LabelConfig, after: int = 0
) -> Audit:
    """The masks of labelled audit tasks against what people marked there, oldest label first.

    Of several annotations of a task the newest counts; skipped ones and those that a machine made do not, nor those up
    to the annotation `after`.
    """
    newest: dict[int, Annotation] = {}
    for one in sorted(annotations, key=lambda annotation: annotation.id):
        if one.task in tasks and one.id > after and not one.cancelled and not accepting_version(one.result):
            newest[one.task] = one
    ordered = sorted(newest.values(), key=lambda annotation: annotation.id)
    judged: list[ScoredTask] = []
    numbers: dict[int, npt.NDArray[np.int64]] = {}
    true_iou: dict[int, list[float]] = {}
    left_out: dict[int, str] = {}
    for annotation in ordered:
        scored = tasks[annotation.task]
        try:
            found = true_ious(scored, annotation.result, controls)
        except ITEM_ERRORS as error:
            left_out[annotation.task] = reason_of(error)
            continue
        judged.append(scored)
        numbers[scored.task] = np.array(sorted(found), np.int64)
        true_iou[scored.task] = [found[number] for number in sorted(found)]
    return Audit(_candidates(judged, numbers, true_iou), max((one.id for one in ordered), default=after), left_out)


def true_ious(scored: ScoredTask, result: Sequence[Json], controls: LabelConfig) -> dict[int, float]:
    """Object number -> highest IoU with an object of its label that a person marked, 0..1; a wrong label counts 0.

    Raises `RegionError` where the person's regions cannot be compared with masks.
    """
    from usam.masks import iou, without_specks

    drawn, boxes_alone = masks_on(controls.image_name, result), controls.output.kind == "rectangle"
    if not boxes_alone and any(one.box_only for one in drawn):
        raise RegionError("masks", "rectangles, which do not say where an object ends", "mark audit tasks by masks")
    kept = scored.objects.kept
    theirs = [(controls.place(one.label).label, region_to_mask(one.region, kept.hw)) for one in drawn]
    found: dict[int, float] = {}
    for number in _acceptable(scored, controls):
        label = final_label(scored, number, controls)
        mask = without_specks(kept.mask(number))
        if boxes_alone:
            mask = box_of(mask)
        alike = [other for name, other in theirs if not label or name == label]
        found[number] = max((float(iou(mask, other)) for other in alike), default=0.0)
    return found


def _candidates(
    tasks: Sequence[ScoredTask],
    numbers: Mapping[int, npt.NDArray[np.int64]],
    true_iou: Mapping[int, list[float]] | None,
) -> Candidates:
    columns: dict[str, list[float]] = defaultdict(list)
    names: list[str] = []
    images: list[int] = []
    gaps = all("task_gap" in task.objects.columns for task in tasks)
    for task in tasks:
        for row, number in enumerate(numbers[task.task].tolist()):
            told = task.objects.scores(number)
            names.append(f"{task.task}-{number}")
            images.append(task.task)
            columns["iou"].append(told.iou)
            columns["gap"].append(told.scores.get("task_gap", 0.0))
            if true_iou is not None:
                columns["true"].append(true_iou[task.task][row])
    return Candidates(
        names,
        images,
        np.array(columns["iou"], np.float64),
        np.array(columns["gap"], np.float64) if gaps else None,
        np.array(columns["true"], np.float64) if true_iou is not None else None,
        [task.task for task in tasks],
    )
