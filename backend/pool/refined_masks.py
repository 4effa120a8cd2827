"""Masks of kept proposals made again: by the larger model, with more points, or as another reading of a click.

Legend: K objects of one task; P prompts; H, W image and h, w low-resolution masks in pixels.

A task's arrays get: `acted` (K,) what was done, in bits; `acted_iou` (K,) predicted IoU of the mask that is shown now,
NaN where it is the first one; `before_<k>` and `alternative_<k>`, masks as run lengths; `alternative_iou_<k>`;
`image_hw`.
Tokens and gaps stay those of the first model: the ranking asks what that model has to learn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.inference.job_model import Decoded
from backend.inference.refinement import RefinementStats, denser
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
from usam.errors import UsamError

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

BITS: Mapping[Action, int] = {"larger": 1, "points": 2, "alternatives": 4}
"""What was done to an object, in the array `acted`."""
_BATCH_SIZE = 256
BoolMask = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]
Ranked = list[tuple[float, int, npt.NDArray[np.float32]]]
"""Predicted IoU, output 1..3 and logits (h, w) of the masks of one prompt, the one to show first."""


class MaskRefiner:
    """Changes the kept proposals of one task after another. Loads no more models than the actions need."""

    def __init__(
        self, resources: Resources, project: int, heads: HeadSet | None, controls: LabelConfig, choice: MaskSelection
    ) -> None:
        from usam.checkpoints import registry as checkpoints

        self._context, self._project, self._heads = resources, project, heads
        self._controls, self._choice = controls, choice
        self.tallies: dict[Action, RefinementStats] = {action: RefinementStats() for action in GAP_OF}
        self.cost: Cost | None = None
        larger = resources.settings.larger_model
        self._larger_heads = checkpoints.resolve_heads(larger, "auto") if larger else None

    def remake(self, task: KnownTask, wanted: Mapping[Action, set[int]]) -> None:
        """Act on objects of a task, by number. A task whose image cannot be had now is left as it is."""
        resources, row = self._context, self._context.store.proposal_rows(self._project, [task.id]).get(task.id)
        if row is None or not row.arrays:
            return
        try:
            image = resources.images.fetch(self._controls.image_value(task.data), task.id)
            arrays, regions = dict(unpack(row)), list(row.regions)
            count = len(arrays["output"])
            arrays.setdefault("acted", np.zeros(count, np.int64))
            arrays.setdefault("acted_iou", np.full(count, np.nan, np.float32))
            arrays["image_hw"] = np.array(image.shape[:2], np.int64)
            if small := wanted.get("points", set()) | wanted.get("alternatives", set()):
                self._with_small(image, arrays, regions, sorted(small), wanted)
            if numbers := sorted(wanted.get("larger", ())):
                self._with_larger(image, arrays, regions, numbers)
        except UsamError:
            return
        resources.store.put_proposal(self._project, pack(task.id, row.key, arrays, regions))

    def _with_small(
        self,
        image: npt.NDArray[np.uint8],
        arrays: Arrays,
        regions: list[Json],
        numbers: Sequence[int],
        wanted: Mapping[Action, set[int]],
    ) -> None:
        model, started = self._context.model, time.perf_counter()
        encoded = model.encode(image)
        prompts = kept_prompts(arrays)
        hw = (int(image.shape[0]), int(image.shape[1]))
        told = score_many(self._heads, model.checkpoint, [arrays])[0]
        encoding = (time.perf_counter() - started) / len(numbers)
        for number in numbers:
            started = time.perf_counter()
            decoded = model.decode(encoded, [prompts[number]])
            first = int(arrays["output"][number])
            if number in wanted.get("alternatives", ()):
                ranked = best_masks(self._heads, model.checkpoint, decoded, self._choice)
                iou, logits = next((q, one) for q, output, one in ranked[0] if output != first)
                arrays[f"alternative_{number}"] = _runs(_enlarged(logits, hw))
                arrays[f"alternative_iou_{number}"] = np.array([iou], np.float32)
                self._count(arrays, number, "alternatives", 0.0, encoding + time.perf_counter() - started)
            if number in wanted.get("points", ()) and (decoded.logits[0, first] > 0).any():
                more = denser(prompts[number], decoded.logits[0, first], hw)
                again = best_masks(self._heads, model.checkpoint, model.decode(encoded, [more]), self._choice)[0][0]
                kept = again[0] > told[number].iou
                self._replace(arrays, regions, number, again, hw, "8 points", kept, told[number])
                seconds = encoding + time.perf_counter() - started
                self._count(arrays, number, "points", again[0] - told[number].iou, seconds, kept)

    def _with_larger(
        self, image: npt.NDArray[np.uint8], arrays: Arrays, regions: list[Json], numbers: Sequence[int]
    ) -> None:
        model, settings, started = self._context.model, self._context.settings, time.perf_counter()
        if model.larger is None:
            return
        hw = (int(image.shape[0]), int(image.shape[1]))
        encoded = model.larger.encode(image)
        encoding = time.perf_counter() - started
        told = score_many(self._heads, model.checkpoint, [arrays])[0]
        prompts = kept_prompts(arrays)
        started = time.perf_counter()
        decoded = model.decode(encoded, [prompts[number] for number in numbers], model.larger)
        ranked = best_masks(self._larger_heads, model.larger.name, decoded, "predicted-iou")
        decoding = (time.perf_counter() - started) / len(numbers)
        self.cost = Cost(round(encoding, 5), round(decoding, 5)) if self.cost is None else self.cost
        for number, choices in zip(numbers, ranked, strict=True):
            kept = choices[0][0] >= told[number].iou - settings.larger_margin
            note = f"mask by {model.larger.name}"
            gain = choices[0][0] - told[number].iou
            kept = self._replace(arrays, regions, number, choices[0], hw, note, kept, told[number])
            self._count(arrays, number, "larger", gain, encoding / len(numbers) + decoding, kept)

    def _replace(
        self,
        arrays: Arrays,
        regions: list[Json],
        number: int,
        again: tuple[float, int, npt.NDArray[np.float32]],
        hw: tuple[int, int],
        note: str,
        wanted: bool,
        told: ObjectScores,
    ) -> bool:
        """Show another mask for an object, unless it is empty; the one before is kept for comparison."""
        mask = _enlarged(again[2], hw)
        before = shown_mask(regions, number, self._controls, hw)
        if not wanted or before is None or not mask.any():
            return False
        label = next((label_of(one["region"]) for one in regions if one["object"] == number), None)
        scored = ScoredMask(mask, again[0], told.gaps, label, (note,))
        made = object_regions(number, scored, self._controls, self._context.settings)
        place = next(i for i, one in enumerate(regions) if one["object"] == number)
        regions[:] = (
            [one for one in regions[:place] if one["object"] != number]
            + made
            + [one for one in regions[place:] if one["object"] != number]
        )
        arrays[f"before_{number}"] = _runs(before)
        arrays["acted_iou"] = _with(arrays["acted_iou"], number, again[0])
        return True

    def _count(
        self, arrays: Arrays, number: int, action: Action, gain: float, seconds: float, kept: bool = True
    ) -> None:
        tally = self.tallies[action]
        tally.acted += 1
        tally.seconds += seconds
        if kept:
            tally.kept += 1
            tally.predicted_gain += gain
        arrays["acted"] = _with(arrays["acted"], number, int(arrays["acted"][number]) | BITS[action])


def best_masks(heads: HeadSet | None, checkpoint: str, decoded: Decoded, choice: MaskSelection) -> list[Ranked]:
    """The three masks of each of P prompts in the order of the choice, with their predicted IoU."""
    name = heads.quality_for(checkpoint) if heads is not None else None
    samscore = decoded.samscore[:, 1:]
    predicted = samscore
    if heads is not None and name is not None:
        predicted = heads.subset([name]).score(decoded.iou_token, decoded.mask_tokens)[name]
    order = np.argsort(-(samscore if choice == "samscore" else predicted), axis=1, kind="stable")
    return [
        [(float(np.clip(predicted[p, m], 0, 1)), int(m) + 1, decoded.logits[p, m + 1]) for m in order[p]]
        for p in range(len(order))
    ]


def true_gains(
    arrays: Mapping[str, npt.NDArray[Any]], regions: Sequence[Json], result: Sequence[Json], controls: LabelConfig
) -> list[tuple[Action, float]]:
    """The action and the gain in true IoU of each replaced mask of a task that has this annotation."""
    from usam.masks import decode_rle, iou

    found: list[tuple[Action, float]] = []
    for number in np.flatnonzero(arrays["acted"]):
        if f"before_{number}" not in arrays:
            continue
        height, width = (int(side) for side in arrays["image_hw"])
        before = decode_rle(arrays[f"before_{number}"].tolist(), (height, width)) > 127
        after = shown_mask(regions, int(number), controls, (height, width))
        drawn = [one for one in result if str(one.get("type", "")).lower() in MASK_TYPES]
        try:
            truths = [region_to_mask(one, (height, width)) for one in drawn]
        except UsamError:
            continue
        if after is None or not truths:
            continue
        pairs = [(float(iou(before, truth)), float(iou(after, truth))) for truth in truths]
        best = max(pairs, key=sum)
        if max(best) > 0:
            larger = int(arrays["acted"][number]) & BITS["larger"]
            found.append(("larger" if larger else "points", best[1] - best[0]))
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
                label = next((label_of(one["region"]) for one in regions if one["object"] == number), None)
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
    masks = [region_to_mask(part, hw) for part in parts if part["from_name"] == controls.output.name]
    return np.logical_or.reduce(masks) if masks else None


def _enlarged(logits: npt.NDArray[np.float32], hw: tuple[int, int]) -> BoolMask:
    from usam.masks import resize_logits

    return np.asarray(resize_logits(logits, hw) > 0)


def _runs(mask: BoolMask) -> npt.NDArray[np.uint8]:
    from usam.masks import encode_rle

    return np.array(encode_rle(mask), np.uint8)


def _with(values: npt.NDArray[Any], place: int, value: float) -> npt.NDArray[Any]:
    changed = values.copy()
    changed[place] = value
    return changed
