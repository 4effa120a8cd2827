"""What the model says of one task before anybody has looked at it, kept so that new heads need no new decoding.

Legend: H, W image in pixels; P prompts; K proposals kept; D token width.

Masks, regions and tokens depend on the image and the checkpoint; scores on the heads as well. The former are
cached. When heads change, tokens are scored again and numbers replaced in the regions; masks stay as they are.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import StoreError
from backend.inference.model import LoadedModel, ProposedObjects, enlarged
from backend.inference.scheduler import finish
from backend.label_studio.config import LabelConfig, ScoreControl
from backend.label_studio.prompts import LabelledPrompt, prompts_from_task
from backend.label_studio.records import Json, Prediction
from backend.label_studio.regions import ScoredMask, describe, masks_to_regions, validated
from backend.settings import Settings
from backend.store.records import ProposalRow
from usam.active.mask_selection import MaskSelection
from usam.checkpoints.registry import weights_of
from usam.prompts import Prompt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding

PROPOSALS_VERSION = 4
"""Raised when the same image gives other proposals."""
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one proposal: predicted IoU 0..1 (higher = better) and all heads' values by name."""

    iou: float
    scores: Mapping[str, float]

    @property
    def gaps(self) -> dict[str, float]:
        """The gaps among them, -0.5..0.5, higher = more to gain."""
        return {name: value for name, value in self.scores.items() if name.endswith("_gap")}


def proposal_key(settings: Settings, label_config: str, data_key: str, choice: MaskSelection = "predicted-iou") -> str:
    """Digest of everything that cached proposals of a task depend on."""
    parts = [
        PROPOSALS_VERSION,
        weights_of(settings.model),
        settings.random_weights,
        settings.points_per_side,
        settings.pred_iou_thresh,
        settings.nms_iou,
        settings.max_regions,
        settings.polygon_tolerance,
        settings.unknown_label,
        label_config,
        data_key,
        choice,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledObjects:
    """What the model proposes for one image, and each object's label from the prompts, None where they say none."""

    found: ProposedObjects
    labels: list[str | None]


def propose_objects(
    model: LoadedModel,
    heads: HeadSet | None,
    embedding: ImageEmbedding,
    settings: Settings,
    others: Sequence[Prediction] = (),
    selection: MaskSelection = "predicted-iou",
    image_name: str = "",
) -> LabelledObjects:
    """The part of proposing that needs the model: what `/predict` finds too (`LoadedModel.propose`).

    Prompts are what other models left on the task (`others`) for its image tag `image_name`, else a grid.
    """
    prompts = _prompts(others, embedding.image_hw, image_name)
    asked = [labelled.prompt for labelled in prompts]
    found = finish(model.propose(embedding, asked, heads, selection, settings))
    return LabelledObjects(found, [prompts[source].label if prompts else None for source in found.objects.source])


def to_regions(
    labelled: LabelledObjects,
    heads: HeadSet | None,
    checkpoint: str,
    controls: LabelConfig,
    settings: Settings,
    learned: Sequence[tuple[str, float] | None] | None = None,
) -> tuple[Arrays, list[Json]]:
    """The part that does not need the model, and can be done while it works on the next image.

    Gives the arrays of the K objects, and their regions, `{"object": k, "region": {...}}` each. `learned` gives each
    object the label that its class says and how sure that is, 0..1, or None; a prompt's own goes before it. Raises
    `RegionError` where the result does not fit the labelling configuration.
    """
    from usam.predictor.entropy import h_std

    found, objects = labelled.found, labelled.found.objects
    arrays: Arrays = {
        "iou_token": objects.iou_token.astype(np.float16),
        "mask_tokens": objects.mask_tokens.astype(np.float16),
        "output": objects.output,
        "samscore": objects.samscore.astype(np.float32),
        "entropy": np.asarray(h_std(np.clip(objects.logits, -32, 32)), np.float32).reshape(len(objects)),
        "features": found.features,
        **_prompt_arrays(found.prompts),
    }
    regions: list[Json] = []
    for k, scores in enumerate(score_objects(heads, checkpoint, arrays)):
        label, label_score = labelled.labels[k], None
        if label is None and learned is not None and (guess := learned[k]) is not None:
            label, label_score = guess
        mask = enlarged(objects.logits[k], found.hw)
        scored = ScoredMask(mask, scores.iou, scores.gaps, label, label_score=label_score)
        regions += object_regions(k, scored, controls, settings)
    validated([kept["region"] for kept in regions], 0.5, controls)
    return arrays, regions


def object_regions(number: int, scored: ScoredMask, controls: LabelConfig, settings: Settings) -> list[Json]:
    """The regions of object `number`, with its own gauges, as they are kept."""
    per_region = replace(controls, gauges=tuple(gauge for gauge in controls.gauges if gauge.per_region))
    made = masks_to_regions(
        [scored], per_region, tolerance=settings.polygon_tolerance, unknown_label=settings.unknown_label
    )
    return [{"object": number, "region": region} for region in made]


def _prompt_arrays(prompts: Sequence[Prompt]) -> Arrays:
    """K prompts: points (K, n, 2) with labels (K, n), -1 where a prompt has fewer, and boxes (K, 4) or NaN."""
    most = max((len(prompt.points) for prompt in prompts), default=0)
    points = np.zeros((len(prompts), most, 2), np.float32)
    labels = np.full((len(prompts), most), -1, np.int32)
    boxes = np.full((len(prompts), 4), np.nan, np.float32)
    for place, prompt in enumerate(prompts):
        points[place, : len(prompt.points)] = prompt.points
        labels[place, : len(prompt.points)] = prompt.labels
        if prompt.box is not None:
            boxes[place] = prompt.box
    return {"prompt_points": points, "prompt_labels": labels, "prompt_boxes": boxes}


def kept_prompts(arrays: Arrays) -> list[Prompt]:
    """The prompts of the K objects of a task's arrays."""
    return [
        Prompt(points[labels >= 0], labels[labels >= 0], None if np.isnan(box).any() else box)
        for points, labels, box in zip(
            arrays["prompt_points"], arrays["prompt_labels"], arrays["prompt_boxes"], strict=True
        )
    ]


def score_objects(heads: HeadSet | None, checkpoint: str, arrays: Arrays) -> list[ObjectScores]:
    """Scores of the K objects of one task's arrays; without heads the predicted IoU is SAM's own."""
    return score_many(heads, checkpoint, [arrays])[0]


def score_many(heads: HeadSet | None, checkpoint: str, tasks: Sequence[Arrays]) -> list[list[ObjectScores]]:
    """Scores of the objects of many tasks in a few passes."""
    counts = [len(arrays["output"]) for arrays in tasks]
    samscore = np.concatenate([arrays["samscore"] for arrays in tasks]) if tasks else np.zeros(0, np.float32)
    columns: dict[str, npt.NDArray[Any]] = {}
    if heads is not None and len(samscore):
        columns = _score_outputs(heads, tasks)
    quality = heads.quality_for(checkpoint) if heads is not None else None
    iou = columns.get(quality or "", samscore)
    shown = [arrays.get("acted_iou", np.full(count, np.nan)) for arrays, count in zip(tasks, counts, strict=True)]
    if shown:
        iou = np.where(np.isnan(np.concatenate(shown)), iou, np.concatenate(shown))
    columns["entropy"] = np.concatenate([arrays["entropy"] for arrays in tasks]) if tasks else samscore
    columns["samscore"] = samscore
    found = [
        ObjectScores(float(np.clip(iou[k], 0, 1)), {name: float(values[k]) for name, values in columns.items()})
        for k in range(len(samscore))
    ]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    return [found[starts[t] : starts[t + 1]] for t in range(len(tasks))]


def _score_outputs(heads: HeadSet, tasks: Sequence[Arrays], step: int = 2048) -> dict[str, npt.NDArray[Any]]:
    import torch

    iou_token, mask_tokens, output = (
        np.concatenate([arrays[name] for arrays in tasks]) for name in ("iou_token", "mask_tokens", "output")
    )
    parts = []
    for start in range(0, len(output), step):
        part = slice(start, start + step)
        found = heads.score_outputs(
            torch.from_numpy(iou_token[part].astype(np.float32)),
            torch.from_numpy(mask_tokens[part].astype(np.float32)),
            torch.from_numpy(output[part, None]),
        )
        parts.append(heads.as_dict(found))
    return {name: np.concatenate([part[name][:, 0] for part in parts]) for name in parts[0]}


def _prompts(others: Sequence[Prediction], hw: tuple[int, int], image_name: str) -> list[LabelledPrompt]:
    found = [{"result": one.result, "model_version": one.model_version, "created_at": one.id} for one in others]
    return prompts_from_task(found, hw, image_name=image_name)


# numbers in regions that are kept


def rescored(regions: Sequence[Json], scores: Sequence[ObjectScores], controls: LabelConfig) -> list[Json]:
    """The regions to send: geometry as kept, every number of these scores."""
    gauges = {gauge.name: gauge for gauge in controls.gauges}
    result = []
    for kept in regions:
        told = scores[kept["object"]]
        region = copy.copy(kept["region"])
        gauge = gauges.get(region["from_name"])
        if gauge is not None:
            region["value"] = _gauge_value(gauge, told)
        elif "score" in region:
            line = describe(ScoredMask(_ONE_PIXEL, told.iou, told.gaps))
            region["score"] = round(min(max(told.iou, 0.0), 1.0), 4)
            region["meta"] = {"text": [line, *region["meta"]["text"][1:]]}
        result.append(region)
    whole = [gauge for gauge in controls.gauges if not gauge.per_region]
    if whole and scores:
        shown = [ScoredMask(_ONE_PIXEL, told.iou, told.gaps) for told in scores]
        made = masks_to_regions(shown, replace(controls, gauges=tuple(whole)))
        result += [region for region in made if region["from_name"] in {gauge.name for gauge in whole}]
    return result


_ONE_PIXEL = np.ones((1, 1), np.bool_)


def _gauge_value(gauge: ScoreControl, told: ObjectScores) -> Json:
    number = told.iou if gauge.quantity == "predicted_iou" else told.gaps.get(gauge.quantity, 0.0)
    rounded = round(float(number), 4)
    return {"number": rounded} if gauge.kind == "number" else {"text": [f"{rounded:.4f}"]}


# on disk


def pack(task: int, key: str, arrays: Arrays, regions: list[Json]) -> ProposalRow:
    """For the store."""
    from safetensors.numpy import save

    return ProposalRow(task, key, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}), regions)


def unpack(row: ProposalRow) -> dict[str, npt.NDArray[Any]]:
    """From the store. Raises `StoreError` where the arrays are damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(row.arrays)
    except SafetensorError as error:
        raise StoreError(f"readable proposals of task {row.task}", str(error), "they are made again") from error
