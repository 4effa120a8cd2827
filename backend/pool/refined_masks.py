"""Refined masks of kept proposals: the larger model's, or another reading of the same prompt.

Legend: K objects of one task; H, W image in pixels.

A task's arrays get: `acted` (K,) what was done, in bits; `acted_iou` (K,) predicted IoU of the mask that is shown now,
NaN where it is the first one; `before_<k>` and `alternative_<k>`, masks as run lengths; `alternative_iou_<k>`;
`image_hw`.
Tokens and gaps stay those of the first model: the ranking asks what that model has to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS
from backend.inference.model import LoadedModel, enlarged
from backend.inference.refinement import Refinement, RefinementStats, other_readings, refine_by_larger
from backend.inference.scheduler import finish
from backend.label_studio.config import LabelConfig
from backend.label_studio.prompts import label_of
from backend.label_studio.records import Json
from backend.label_studio.regions import ScoredMask
from backend.label_studio.shapes import MASK_TYPES, region_to_mask
from backend.pool.proposals import ObjectScores, kept_prompts, object_regions, pack, rescored, score_many, unpack
from backend.resources import Resources
from backend.store.records import KnownTask, ScoreRow
from usam.active.mask_selection import MaskSelection
from usam.active.refinement import GAP_OF, Action, Cost

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding

BITS: Mapping[Action, int] = {"larger": 1, "alternatives": 4}
"""What was done to an object, in the array `acted`. Kept proposals of old may have 2: more points inside their mask."""
_BATCH_SIZE = 256
BoolMask = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]


class MaskRefiner:
    """Changes the kept proposals of one task after another. Loads no more models than the actions need."""

    def __init__(
        self,
        resources: Resources,
        project: int,
        heads: HeadSet | None,
        controls: LabelConfig,
        selection: MaskSelection,
    ) -> None:
        self._resources, self._project, self._heads = resources, project, heads
        self._controls, self._selection = controls, selection
        self.stats: dict[Action, RefinementStats] = {action: RefinementStats() for action in GAP_OF}
        self.cost: Cost | None = None
        """Of the larger model, once it encoded an image."""

    def refine(self, task: KnownTask, wanted: Mapping[Action, set[int]]) -> None:
        """Refine objects of a task, by number. A task whose image cannot be had now is left as it is."""
        resources, row = self._resources, self._resources.store.proposal_rows(self._project, [task.id]).get(task.id)
        if row is None or not row.arrays:
            return
        try:
            file = resources.images.fetch_bytes(self._controls.image_value(task.data), task.id)
            arrays, regions = dict(unpack(row)), list(row.regions)
            count = len(arrays["output"])
            arrays.setdefault("acted", np.zeros(count, np.int64))
            arrays.setdefault("acted_iou", np.full(count, np.nan, np.float32))
            if numbers := sorted(wanted.get("alternatives", ())):
                self._add_alternatives(file, arrays, numbers)
            if numbers := sorted(wanted.get("larger", ())):
                regions = self._with_larger(file, arrays, regions, numbers)
        except ITEM_ERRORS:
            return
        resources.store.put_proposal(self._project, pack(task.id, row.key, arrays, regions))

    def _add_alternatives(self, file: bytes, arrays: Arrays, numbers: Sequence[int]) -> None:
        model = self._resources.model
        embedding, encode_s = self._encoded(model, file)
        prompts = kept_prompts(arrays)
        asked, shown = [prompts[number] for number in numbers], [int(arrays["output"][number]) for number in numbers]
        readings = other_readings(model, embedding, asked, shown, self._heads, self._selection)
        arrays["image_hw"] = np.array(embedding.image_hw, np.int64)
        for number, reading in zip(numbers, readings, strict=True):
            arrays[f"alternative_{number}"] = _runs(enlarged(reading.logits, embedding.image_hw))
            arrays[f"alternative_iou_{number}"] = np.array([reading.iou], np.float32)
            self._record(arrays, number, "alternatives", reading, encode_s / len(numbers), kept=True)

    def _with_larger(self, file: bytes, arrays: Arrays, regions: list[Json], numbers: Sequence[int]) -> list[Json]:
        """The regions, with the larger model's masks where they are kept; those before are kept for comparison."""
        larger, settings = self._resources.larger, self._resources.settings
        if larger is None:
            return regions
        embedding, encode_s = self._encoded(larger, file)
        hw = embedding.image_hw
        arrays["image_hw"] = np.array(hw, np.int64)
        scores = score_many(self._heads, settings.model, [arrays])[0]
        prompts = kept_prompts(arrays)
        asked, before = [prompts[number] for number in numbers], [scores[number].iou for number in numbers]
        refined = finish(refine_by_larger(larger, embedding, asked, before, settings))
        if encode_s and self.cost is None:
            self.cost = Cost(round(encode_s, 5), round(refined[0].seconds, 5))
        for number, refinement in zip(numbers, refined, strict=True):
            mask, old = enlarged(refinement.logits, hw), shown_mask(regions, number, self._controls, hw)
            kept = refinement.kept and old is not None and bool(mask.any())
            if kept and old is not None:
                label = object_label(regions, number)
                note = f"mask by {larger.name}"
                scored = ScoredMask(mask, refinement.iou, scores[number].gaps, label, (note,))
                regions = _replaced(regions, number, object_regions(number, scored, self._controls, settings))
                arrays[f"before_{number}"] = _runs(old)
                arrays["acted_iou"] = _with(arrays["acted_iou"], number, refinement.iou)
            self._record(arrays, number, "larger", refinement, encode_s / len(numbers), kept=kept)
        return regions

    def _encoded(self, model: LoadedModel, file: bytes) -> tuple[ImageEmbedding, float]:
        """An image's embedding and the seconds that its encoding took, 0 where it was on disk."""
        image = self._resources.source(file, model.name)
        embedding = image.encoded_by(model)
        if image.embedding is not None:
            return embedding, 0.0
        self._resources.embeddings.put(image.content, model.name, embedding, make_room=False)
        return embedding, model.encode_s

    def _record(
        self, arrays: Arrays, number: int, action: Action, refinement: Refinement, encode_s: float, *, kept: bool
    ) -> None:
        self.stats[action].add(refinement, kept=kept)
        self.stats[action].seconds += encode_s
        arrays["acted"] = _with(arrays["acted"], number, int(arrays["acted"][number]) | BITS[action])


def _replaced(regions: Sequence[Json], number: int, made: list[Json]) -> list[Json]:
    """The regions with those of an object in the place of its present ones."""
    place = next(index for index, kept in enumerate(regions) if kept["object"] == number)
    rest = [[kept for kept in part if kept["object"] != number] for part in (regions[:place], regions[place:])]
    return [*rest[0], *made, *rest[1]]


def true_gains(
    arrays: Mapping[str, npt.NDArray[Any]], regions: Sequence[Json], result: Sequence[Json], controls: LabelConfig
) -> list[tuple[Action, float]]:
    """The action and the gain in true IoU of each replaced mask of a task that has this annotation."""
    from usam.masks import decode_rle, iou

    found: list[tuple[Action, float]] = []
    for number in np.flatnonzero(arrays["acted"] & BITS["larger"]):
        if f"before_{number}" not in arrays:
            continue
        height, width = (int(side) for side in arrays["image_hw"])
        before = decode_rle(arrays[f"before_{number}"].tolist(), (height, width)) > 127
        after = shown_mask(regions, int(number), controls, (height, width))
        drawn = [one for one in result if str(one.get("type", "")).lower() in MASK_TYPES]
        try:
            truths = [region_to_mask(one, (height, width)) for one in drawn]
        except ITEM_ERRORS:
            continue
        if after is None or not truths:
            continue
        pairs = [(float(iou(before, truth)), float(iou(after, truth))) for truth in truths]
        best = max(pairs, key=sum)
        if max(best) > 0:
            found.append(("larger", best[1] - best[0]))
    return found


def alternative_predictions(
    resources: Resources,
    project: int,
    rows: Sequence[ScoreRow],
    objects: Mapping[int, Sequence[ObjectScores]],
    controls: LabelConfig,
    version: str,
) -> list[Json]:
    """A second prediction for each task with alternatives: the same objects, but where it is unclear which one is
    meant, the other reading. It has the task's own score, so that the order stays as it is."""
    from usam.masks import decode_rle

    found = []
    for start in range(0, len(rows), _BATCH_SIZE):
        part = {row.task: row for row in rows[start : start + _BATCH_SIZE]}
        for task, kept in resources.store.proposal_rows(project, list(part)).items():
            if not kept.arrays or not objects.get(task):
                continue
            arrays, regions, scores = unpack(kept), list(kept.regions), list(objects[task])
            numbers = [n for n in range(len(scores)) if f"alternative_{n}" in arrays]
            for number in numbers:
                hw = (int(arrays["image_hw"][0]), int(arrays["image_hw"][1]))
                mask = decode_rle(arrays[f"alternative_{number}"].tolist(), hw) > 127
                label = object_label(regions, number)
                predicted = float(arrays[f"alternative_iou_{number}"][0])
                scores[number] = replace(scores[number], iou=predicted)
                note = "another reading: which object is meant is unclear"
                scored = ScoredMask(mask, predicted, scores[number].gaps, label, (note,))
                made = object_regions(number, scored, controls, resources.settings)
                regions = [one for one in regions if one["object"] != number] + made
            if numbers:
                result = rescored(regions, scores, controls)
                found.append({"task": task, "score": part[task].confidence, "result": result, "model_version": version})
    return found


def shown_mask(regions: Sequence[Json], number: int, controls: LabelConfig, hw: tuple[int, int]) -> BoolMask | None:
    """The mask of an object, of all its parts; None where it has no region."""
    parts = [one["region"] for one in regions if one["object"] == number]
    masks = [region_to_mask(part, hw) for part in parts if part["from_name"] in controls.output_names]
    return np.logical_or.reduce(masks) if masks else None


def object_label(regions: Sequence[Json], number: int) -> str | None:
    """The label of an object, which a generic `Labels` control writes beside its region; None where it has none."""
    own = (kept["region"] for kept in regions if kept["object"] == number)
    return next((label for region in own if (label := label_of(region)) is not None), None)


def _runs(mask: BoolMask) -> npt.NDArray[np.uint8]:
    from usam.masks import encode_rle

    return np.array(encode_rle(mask), np.uint8)


def _with(values: npt.NDArray[Any], place: int, value: float) -> npt.NDArray[Any]:
    changed = values.copy()
    changed[place] = value
    return changed
