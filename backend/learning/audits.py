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
from backend.label_studio.prompts import label_of
from backend.label_studio.records import Annotation, Json
from backend.label_studio.shapes import drawn_masks, region_to_mask
from backend.pool.proposals import ObjectScores, score_many, unpack
from backend.resources import Resources
from backend.store.pseudo_label_store import accepting_version
from backend.store.records import ProposalRow
from usam.pseudo_labels.calibration import Candidates

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

BoolMask = npt.NDArray[np.bool_]
_BATCH_SIZE = 256


@dataclass(frozen=True)
class ScoredTask:
    """What is kept of one task's proposals, scored: regions as `{"object": k, "region": {...}}`."""

    task: int
    regions: list[Json] = field(repr=False)
    scores: list[ObjectScores] = field(repr=False)

    def mask(self, number: int, controls: LabelConfig) -> BoolMask | None:
        """The mask of one object, of all its parts; None where it has no region."""
        parts = [kept["region"] for kept in self.regions if kept["object"] == number]
        parts = [part for part in parts if part["from_name"] in controls.output_names]
        masks = [region_to_mask(part, image_hw(part)) for part in parts]
        return np.logical_or.reduce(masks) if masks else None

    def label(self, number: int) -> str:
        """The label that the object's results carry, of its region or of a generic `Labels` control."""
        own = (kept["region"] for kept in self.regions if kept["object"] == number)
        return next((label for region in own if (label := label_of(region))), "")


@dataclass(frozen=True)
class Audit:
    """Audited masks with their true IoUs; `last_label` is the newest annotation among them, `left_out` says which tasks
    could not be judged and why."""

    candidates: Candidates
    last_label: int
    left_out: dict[int, str]


def scored_tasks(
    resources: Resources, project: int, tasks: Sequence[int], heads: HeadSet | None
) -> dict[int, ScoredTask]:
    """Proposals of these tasks, scored by `heads`; tasks without proposals are not among them."""
    found: dict[int, ScoredTask] = {}
    for start in range(0, len(tasks), _BATCH_SIZE):
        rows: Mapping[int, ProposalRow] = resources.store.proposal_rows(project, tasks[start : start + _BATCH_SIZE])
        known = {task: unpack(row) for task, row in sorted(rows.items()) if row.arrays}
        scores = score_many(heads, resources.settings.model, list(known.values()))
        for task, told in zip(known, scores, strict=True):
            found[task] = ScoredTask(task, rows[task].regions, told)
    return found


def pool_candidates(tasks: Iterable[ScoredTask]) -> Candidates:
    """The masks of tasks that nobody has labelled."""
    known = list(tasks)
    return _candidates(known, {one.task: np.arange(len(one.scores)) for one in known}, None)


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
    """Object number -> highest IoU with an object that a person with_provenance, 0..1.

    Raises `RegionError` where the person's regions cannot be compared with masks.
    """
    from usam.masks import iou

    drawn = [one.region for one in drawn_masks(result)[0] if one.image in ("", controls.image_name)]
    if controls.output.kind != "rectangle" and any(_is_box(region) for region in drawn):
        raise RegionError("masks", "rectangles, which do not say where an object ends", "mark audit tasks by masks")
    hw: tuple[int, int] | None = None
    theirs: list[BoolMask] = []
    found: dict[int, float] = {}
    for number in range(len(scored.scores)):
        mask = scored.mask(number, controls)
        if mask is None:
            continue
        if hw is None:
            hw = (mask.shape[0], mask.shape[1])
            theirs = [region_to_mask(region, hw) for region in drawn]
        found[number] = max((float(iou(mask, other)) for other in theirs), default=0.0)
    return found


def image_hw(region: Mapping[str, object]) -> tuple[int, int]:
    """Height and width of the image that a region of ours was made for. Raises `RegionError` where it does not say."""
    height, width = region.get("original_height"), region.get("original_width")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise RegionError("a region with its image's size", "one without", "rank the pool again")
    return height, width


def _is_box(region: Json) -> bool:
    return str(region.get("type", "")).lower().startswith("rectangle")


def _candidates(
    tasks: Sequence[ScoredTask],
    numbers: Mapping[int, npt.NDArray[np.int64]],
    true_iou: Mapping[int, list[float]] | None,
) -> Candidates:
    columns: dict[str, list[float]] = defaultdict(list)
    names: list[str] = []
    images: list[int] = []
    gaps = all("task_gap" in one.scores for task in tasks for one in task.scores)
    for task in tasks:
        for row, number in enumerate(numbers[task.task].tolist()):
            told = task.scores[number]
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
