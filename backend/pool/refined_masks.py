"""Refined masks of kept proposals: the larger model's, or another reading of the same prompt.

Legend: K candidates of one task; H, W image in pixels.

Tokens and gaps stay those of the first model: the ranking asks what that model has to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS
from backend.inference.model import LoadedModel, enlarged
from backend.inference.refinement import Refinement, RefinementStats, other_readings, refine_by_larger
from backend.inference.scheduler import finish
from backend.label_studio.config import LabelConfig
from backend.label_studio.records import Json
from backend.label_studio.regions import Drawing, ScoredMask, masks_to_regions
from backend.label_studio.shapes import masks_on, region_to_mask
from backend.pool.kept_objects import KeptObjects, Reading, drawings_of, read_kept
from backend.pool.proposals import ScoredObjects, draw_shown
from backend.pool.proposing import ProposalPlan
from backend.store.records import KnownTask, ScoreRow
from usam.active.refinement import GAP_OF, Action, Cost
from usam.masks.packed_logits import PackedLogits

if TYPE_CHECKING:
    from usam.predictor.embedding import ImageEmbedding

BITS: Mapping[Action, int] = {"larger": 1, "alternatives": 4}
"""What was done to an object, in `KeptObjects.acted`."""
BoolMask = npt.NDArray[np.bool_]


class MaskRefiner:
    """Changes the kept proposals of one task after another. Loads no more models than the actions need."""

    def __init__(self, plan: ProposalPlan) -> None:
        self._plan, self._resources = plan, plan.resources
        self.stats: dict[Action, RefinementStats] = {action: RefinementStats() for action in GAP_OF}
        self.cost: Cost | None = None
        """Of the larger model, once it encoded an image."""

    def refine(self, task: KnownTask, wanted: Mapping[Action, set[int]]) -> None:
        """Refine objects of a task, by number. A task whose image cannot be had now is left as it is."""
        plan, resources = self._plan, self._resources
        row = resources.store.proposal_rows(plan.project, [task.id]).get(task.id)
        if row is None or not row.arrays:
            return
        try:
            file = resources.images.fetch_bytes(plan.controls.image_value(task.data), task.id)
            kept, drawings = KeptObjects.unpack(row), drawings_of(row)
            if numbers := sorted(wanted.get("alternatives", ())):
                kept = self._with_alternatives(file, kept, numbers)
            if numbers := sorted(wanted.get("larger", ())):
                kept = self._with_larger(file, kept, numbers)
            drawings = {number: one for number, one in drawings.items() if number not in wanted.get("larger", ())}
            (scored,) = plan.scored([kept])
            drawings |= draw_shown(scored, plan.controls, resources.settings, task.data, drawings)
        except ITEM_ERRORS:
            return
        resources.store.put_proposal(plan.project, kept.pack(task.id, row.key, drawings))

    def _with_alternatives(self, file: bytes, kept: KeptObjects, numbers: Sequence[int]) -> KeptObjects:
        model = self._resources.model_with(self._plan.decoder)
        embedding, encode_s = self._encoded(model, file)
        asked, shown = [kept.prompts[number] for number in numbers], [int(kept.output[number]) for number in numbers]
        readings = other_readings(model, embedding, asked, shown, self._plan.heads, self._plan.selection)
        for number, reading in zip(numbers, readings, strict=True):
            self._count("alternatives", reading, encode_s / len(numbers), kept=True)
            kept = kept.after(number, BITS["alternatives"], alternative=_reading(reading))
        return kept

    def _with_larger(self, file: bytes, kept: KeptObjects, numbers: Sequence[int]) -> KeptObjects:
        larger, settings = self._resources.larger, self._resources.settings
        if larger is None:
            return kept
        embedding, encode_s = self._encoded(larger, file)
        (scored,) = self._plan.scored([kept])
        asked, before = [kept.prompts[number] for number in numbers], [scored.scores(number).iou for number in numbers]
        refined = finish(refine_by_larger(larger, embedding, asked, before, settings))
        if encode_s and self.cost is None:
            self.cost = Cost(round(encode_s, 5), round(refined[0].seconds, 5))
        for number, refinement in zip(numbers, refined, strict=True):
            better = refinement.kept and bool(enlarged(refinement.logits, kept.hw).any())
            self._count("larger", refinement, encode_s / len(numbers), kept=better)
            kept = kept.after(number, BITS["larger"], larger=_reading(refinement) if better else None)
        return kept

    def _encoded(self, model: LoadedModel, file: bytes) -> tuple[ImageEmbedding, float]:
        """An image's embedding and the seconds that its encoding took, 0 where it was on disk."""
        image = self._resources.source(file, model.name)
        embedding = image.encoded_by(model)
        if image.embedding is not None:
            return embedding, 0.0
        self._resources.embeddings.put(image.content, model.name, embedding, make_room=False)
        return embedding, model.encode_s

    def _count(self, action: Action, refinement: Refinement, encode_s: float, *, kept: bool) -> None:
        self.stats[action].add(refinement, kept=kept)
        self.stats[action].seconds += encode_s


def _reading(refinement: Refinement) -> Reading:
    return Reading(refinement.iou, refinement.checkpoint, PackedLogits.of(refinement.logits[None]))


def true_gains(kept: KeptObjects, result: Sequence[Json], controls: LabelConfig) -> list[tuple[Action, float]]:
    """The action and the gain in true IoU of each replaced mask of a task that has this annotation."""
    from usam.masks import iou

    found: list[tuple[Action, float]] = []
    drawn = [one.region for one in masks_on(controls.image_name, result)]
    try:
        truths = [region_to_mask(region, kept.hw) for region in drawn] if kept.larger else []
    except ITEM_ERRORS:
        return []
    for number in sorted(kept.larger) if truths else ():
        before, after = kept.mask(number, first=True), kept.mask(number)
        pairs = [(float(iou(before, truth)), float(iou(after, truth))) for truth in truths]
        best = max(pairs, key=sum)
        if max(best) > 0:
            found.append(("larger", best[1] - best[0]))
    return found


def alternative_predictions(plan: ProposalPlan, rows: Sequence[ScoreRow], version: str) -> list[Json]:
    """A second prediction for each task with alternatives: the same objects, but where it is unclear which one is
    meant, the other reading. It has the task's own score, so that the order stays as it is."""
    store, controls, settings, found = plan.resources.store, plan.controls, plan.resources.settings, []
    confidence = {row.task: row.confidence for row in rows}
    for batch in read_kept(store, plan.project, list(confidence)):
        kept = {task: one for task, one in batch.objects.items() if one.alternatives}
        data = {task.id: task.data for task in store.tasks(plan.project, only=list(kept))} if kept else {}
        for task, one in zip(kept, plan.scored(kept.values()), strict=True):
            masks = _other_reading(one, draw_shown(one, controls, settings, data[task], drawings_of(batch.rows[task])))
            result = masks_to_regions(
                masks,
                controls,
                tolerance=settings.polygon_tolerance,
                data=data[task],
                unknown_label=settings.unknown_label,
            )
            found.append({"task": task, "score": confidence[task], "result": result, "model_version": version})
    return found


def _other_reading(scored: ScoredObjects, drawings: Mapping[int, Drawing]) -> list[ScoredMask]:
    """What is shown, with the other readings in place of the objects that have one."""
    masks, note = [], "another reading: which object is meant is unclear"
    for number, drawing in drawings.items():
        mask = scored.scored_mask(number, drawing)
        if (reading := scored.kept.alternatives.get(number)) is not None:
            other = scored.kept.alternative(number)
            mask = replace(mask, mask=other, iou=reading.iou, notes=(note,))
        masks.append(mask)
    return masks
