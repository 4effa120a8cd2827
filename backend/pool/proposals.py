"""What the model says of one task before anybody has looked at it, scored and ready to be sent.

Legend: P prompts; K candidates of an image (`pool.kept_objects`), of which some are shown (`inference.shown`).

Candidates depend on the image and the checkpoint and are kept; scores, and which candidates are shown as what, follow
from heads and are worked out anew whenever those change, without any decoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.inference.candidates import propose
from backend.inference.intake import SourceImage
from backend.inference.model import LoadedModel, ProposedObjects
from backend.inference.scheduler import finish
from backend.inference.shown import ShownObjects, choose_shown, grid_of
from backend.label_studio.config import LabelConfig, UnknownLabel
from backend.label_studio.further_labels import LabelledPlacement, place_labels
from backend.label_studio.prompts import LabelledPrompt, prompts_from_task
from backend.label_studio.records import Json, Prediction
from backend.label_studio.regions import Drawing, ScoredMask, masks_to_regions
from backend.pool.kept_objects import KeptObjects, Told
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.checkpoints.registry import weights_of

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.embedding import ImageEmbedding

PROPOSALS_VERSION = 7
"""Raised when the same image gives other candidates."""
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one proposal: predicted IoU 0..1 (higher = better) and all heads' values by name."""

    iou: float
    scores: Mapping[str, float]

    @property
    def gaps(self) -> dict[str, float]:
        """The gaps among them, -0.5..0.5, higher = more to gain."""
        return {name: value for name, value in self.scores.items() if name.endswith("_gap")}


@dataclass(frozen=True, eq=False)
class ScoredObjects:
    """The K candidates of one task with what heads say of them.

    iou      (K,) predicted IoU of the first model's masks, 0..1, higher = better
    columns  {head: (K,)}, `entropy` and `samscore` among them
    shown    which of them are shown, as what
    """

    kept: KeptObjects
    iou: npt.NDArray[np.float32]
    columns: Columns
    shown: ShownObjects

    def scores(self, number: int) -> ObjectScores:
        """Of one candidate: of its mask as it is shown."""
        better = self.kept.larger.get(number)
        iou = better.iou if better is not None else self.iou[number]
        return ObjectScores(float(np.clip(iou, 0, 1)), {name: float(v[number]) for name, v in self.columns.items()})

    def label(self, number: int) -> str | None:
        """The label that a candidate is shown with, None for none."""
        return self.shown.label(number, self.kept.labels[number])[0]

    def scored_mask(self, number: int, drawing: Drawing, name: str = "") -> ScoredMask:
        """One candidate, to be sent."""
        label, sure = self.shown.label(number, self.kept.labels[number])
        told = self.kept.told.get(number, Told())
        better = self.kept.larger.get(number)
        notes = (f"mask by {better.checkpoint}",) if better is not None else ()
        scores = self.scores(number)
        return ScoredMask(drawing, scores.iou, scores.gaps, label, notes, sure, name, told.further, told.by)

    def placed(
        self,
        number: int,
        controls: LabelConfig,
        data: Mapping[str, Any] | None = None,
        unknown: UnknownLabel = "none",
    ) -> LabelledPlacement:
        """Where a candidate goes, and as what (`place_labels`)."""
        label, told = self.label(number), self.kept.told.get(number, Told())
        return place_labels((label, *told.further) if label is not None else (), controls, data, unknown, told.by)


def proposal_key(
    settings: Settings,
    label_config: str,
    data_key: str,
    choice: MaskSelection = "predicted-iou",
    learnt: ProjectHeads | None = None,
    decoder: str = "",
) -> str:
    """Digest of everything that kept objects of a task depend on."""
    grid = grid_of(settings, learnt)
    parts = [
        PROPOSALS_VERSION,
        weights_of(settings.model),
        settings.random_weights,
        grid.points_per_side,
        *([grid.tiles] if grid.tiles > 1 else []),
        settings.pred_iou_thresh,
        settings.nms_iou,
        grid.most,
        settings.polygon_tolerance,
        label_config,
        data_key,
        choice,
        *([decoder] if decoder else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledObjects:
    """What the model proposes for one image, each object's labels from the prompts, and the control of the first."""

    found: ProposedObjects
    labels: list[tuple[str, ...]]
    told_by: list[str]

    @property
    def kept(self) -> KeptObjects:
        """As it is kept."""
        return KeptObjects.of(self.found, self.labels, self.told_by)


def propose_objects(
    model: LoadedModel,
    heads: HeadSet | None,
    image: SourceImage,
    settings: Settings,
    others: Sequence[Prediction] = (),
    selection: MaskSelection = "predicted-iou",
    image_name: str = "",
    learnt: ProjectHeads | None = None,
    embedding: ImageEmbedding | None = None,
) -> LabelledObjects:
    """The part of proposing that needs the model: what `/predict` finds too (`inference.candidates.propose`).

    Prompts are what other models left on the task (`others`) for its image tag `image_name`, else a grid, as dense as
    what was `learnt` asks for. The `embedding` is made of the image unless it is at hand.
    """
    embedding = embedding if embedding is not None else image.encoded_by(model)
    prompts = _prompts(others, embedding.image_hw, image_name)
    asked = [labelled.prompt for labelled in prompts]
    grid = grid_of(settings, learnt)
    found = finish(propose(model, embedding, asked, heads, selection, settings, grid, image.read_pixels))
    asked_by = [prompts[source] if prompts else None for source in found.objects.source]
    return LabelledObjects(
        found,
        [one.labels if one is not None else () for one in asked_by],
        [one.told_by if one is not None else "" for one in asked_by],
    )


def score_many(
    heads: HeadSet | None, learnt: ProjectHeads | None, settings: Settings, tasks: Sequence[KeptObjects]
) -> list[ScoredObjects]:
    """The candidates of many tasks, scored in a few passes; without heads the predicted IoU is SAM's own."""
    counts = [len(kept) for kept in tasks]
    columns: Columns = {}
    if heads is not None and any(counts):
        columns = _score_outputs(heads, tasks)
    quality = heads.quality_for(settings.model) if heads is not None else None
    for name in ("entropy", "samscore"):
        columns[name] = np.concatenate([getattr(kept, name) for kept in tasks]) if tasks else np.zeros(0, np.float32)
    iou = np.clip(columns.get(quality or "", columns["samscore"]), 0, 1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    scored = []
    for kept, start, end in zip(tasks, starts[:-1], starts[1:], strict=True):
        mine = iou[start:end]
        shown = choose_shown(kept.layout, kept.looks, mine, settings, learnt, given=kept.given)
        scored.append(ScoredObjects(kept, mine, {name: v[start:end] for name, v in columns.items()}, shown))
    return scored


def _score_outputs(heads: HeadSet, tasks: Sequence[KeptObjects], step: int = 2048) -> Columns:
    import torch

    iou_token, mask_tokens, output = (
        np.concatenate([getattr(kept, name) for kept in tasks]) for name in ("iou_token", "mask_tokens", "output")
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


# what is sent


def draw_shown(
    scored: ScoredObjects,
    controls: LabelConfig,
    settings: Settings,
    data: Mapping[str, Any] | None = None,
    known: Mapping[int, Drawing] | None = None,
) -> dict[int, Drawing]:
    """A drawing of each object that is shown, by number, those that are `known` taken as they are. Masks without a
    pixel have none. Raises `MaskError` where a kept mask is damaged."""
    drawings: dict[int, Drawing] = {}
    for number in scored.shown.rows.tolist():
        kind = scored.placed(number, controls, data, settings.unknown_label).output.kind
        before = (known or {}).get(number)
        if before is not None and before.kind == kind:
            drawings[number] = before
        elif scored.kept.mask(number).any():
            drawings[number] = scored.kept.drawing(number, kind, settings.polygon_tolerance)
    return drawings


def regions_of(
    scored: ScoredObjects,
    drawings: Mapping[int, Drawing],
    controls: LabelConfig,
    settings: Settings,
    data: Mapping[str, Any] | None = None,
    numbers: Sequence[int] | None = None,
    prefix: str = "",
    note: str = "",
) -> list[Json]:
    """The regions of what is shown and drawn, best first, or of those `numbers` of it, each with a `note` for people.
    With a `prefix` their ids are made of it and the number, and are the same each time. Raises `RegionError` where
    scores are not finite."""
    rows = scored.shown.rows.tolist() if numbers is None else numbers
    names = {number: object_name(prefix, number) if prefix else "" for number in rows}
    masks = [scored.scored_mask(number, drawings[number], names[number]) for number in rows if number in drawings]
    if note:
        masks = [replace(mask, notes=(*mask.notes, note)) for mask in masks]
    return masks_to_regions(masks, controls, data=data, unknown_label=settings.unknown_label)


def object_name(prefix: str, number: int) -> str:
    """A region's id that is the same each time."""
    return hashlib.blake2b(f"{prefix}/{number}".encode(), digest_size=8).hexdigest()
