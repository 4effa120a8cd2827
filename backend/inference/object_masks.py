"""What the engine hands out: masks at the image's size, with what heads and a project's labels say of them.

Legend: K objects; H, W height and width of the upright image in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.inference.model import DecodedObjects, LoadedModel, ProposedObjects, enlarged
from backend.inference.shown import ShownObjects, judged
from usam.prompts import Prompt

if TYPE_CHECKING:
    from backend.inference.refinement import Refinement
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.embedding import ImageEmbedding
    from usam.predictor.own_decoder import TunedDecoder

BoolMask = npt.NDArray[np.bool_]
Label = tuple[str | None, float | None]
"""A label and how sure what was learnt is of it, 0..1; None where nothing was."""


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object. `mask` (H, W); `iou` its predicted IoU 0..1, higher = better; `scores` of all heads, gaps in
    -0.5..0.5, higher = more to gain; `samscore` SAM's own estimate; `source` the index of the prompt it came from, 0
    for a grid's first; `label` and `label_score` (0..1) what the project's labels taught that it is, if they did."""

    mask: BoolMask
    iou: float
    samscore: float
    scores: dict[str, float]
    checkpoint: str
    prompt: Prompt
    source: int
    label: str | None = None
    label_score: float | None = None

    @property
    def gaps(self) -> dict[str, float]:
        """The three gaps, as far as the heads tell them."""
        return {name: value for name, value in self.scores.items() if name.endswith("_gap")}


@dataclass(frozen=True, eq=False)
class ProposedMasks:
    """What is shown of an image, best first, and all candidates, with which of them that is."""

    masks: list[ObjectMask]
    candidates: ProposedObjects
    shown: ShownObjects


@dataclass(frozen=True)
class ProjectModel:
    """What a project uses in place of the checkpoint's own: heads, what was learnt of its objects, their name, and its
    decoder, None for the checkpoint's."""

    heads: HeadSet
    learnt: ProjectHeads | None = None
    version: str = ""
    decoder: TunedDecoder | None = None


def object_masks(
    checkpoint: str,
    objects: DecodedObjects,
    prompts: Sequence[Prompt],
    refined: Mapping[int, Refinement],
    hw: tuple[int, int],
    labels: Sequence[Label] = (),
) -> list[ObjectMask]:
    """K objects of `checkpoint`, each with its prompt, at the image's size. Gaps stay those of the model that is being
    taught, whoever made the mask: they say what that model has to learn."""
    masks = []
    for k, prompt in enumerate(prompts):
        scores = {name: float(values[k]) for name, values in objects.scores.items()}
        iou, samscore, logits = float(objects.iou[k]), float(objects.samscore[k]), objects.logits[k]
        maker, better = checkpoint, refined.get(k)
        if better is not None and better.kept:
            gaps = {name: value for name, value in scores.items() if name.endswith("_gap")}
            scores, iou, samscore = {**better.scores, **gaps}, better.iou, better.samscore
            logits, maker = better.logits, better.checkpoint
        label, sure = labels[k] if labels else (None, None)
        mask, source = enlarged(logits, hw), int(objects.source[k])
        masks.append(ObjectMask(mask, iou, samscore, scores, maker, prompt, source, label, sure))
    return masks


def clicked_labels(
    model: LoadedModel, embedding: ImageEmbedding, objects: DecodedObjects, learnt: ProjectHeads | None
) -> list[Label]:
    """What K clicked objects are by what was learnt; empty where nothing was."""
    there = (objects.logits > 0).any(axis=(1, 2))
    if learnt is None or not there.any():
        return []
    rows = np.flatnonzero(there)
    _, score, labels = judged(model.looks(embedding, objects.logits[rows], objects.samscore[rows]), learnt)
    known = {int(row): label for row, label in zip(rows, zip(labels, score.tolist(), strict=True), strict=True)}
    return [known[k] if k in known and known[k][0] is not None else (None, None) for k in range(len(objects))]
