"""From a person's region to a training sample: the paper's prompts on that object, tokens and targets.

Legend: M = 3 multimask outputs; D token width. UncertainSAM (arXiv 2505.05049): one point at the centre of the
eroded mask, seven random ones more for the dense prompt, gaps stored as 0.5 + gap and clipped to [0, 1].

A rectangle says where an object is, not which pixels it has. Its sample is marked `box_only`, and its targets are
the IoU of boxes: of the rectangle with the box around each mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS, RegionError, reason_of
from backend.inference.candidates import Pixels, propose
from backend.inference.scheduler import finish
from backend.label_studio.records import Annotation
from backend.label_studio.shapes import DrawnMask, drawn_masks, region_to_mask
from backend.learning.examples import MarkedObject, make_examples
from backend.pool.policy import usable_decoder
from backend.settings import Settings
from backend.store.records import ExampleRow, SampleRow
from usam.checkpoints.registry import weights_of
from usam.prompts import Prompt, centre_point, dense_points

if TYPE_CHECKING:
    from backend.inference.model import LoadedModel, ObjectLooks
    from backend.pool.kept_objects import KeptObjects
    from backend.store.head_registry import Registry
    from usam.objects.outlines import MasksAt
    from usam.predictor.embedding import ImageEmbedding
    from usam.training.decoder_tuning import TuningImage

BoolMask = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]
KEPT_PIXELS = 1_000_000
"""Of an image up to which the masks of all its objects are kept at once."""
COPIED = 25
"""Regions of an annotation of whose outlines spoiled copies are measured too: these are four fifths of the time."""
SAMPLES_VERSION = 5
"""Raised when samples of the same annotation come out otherwise."""


def sampling_key(model: str, larger: str, decoder: str = "") -> str:
    """What samples depend on besides the annotation: those of another key are made again. `decoder` is the version of
    the project's own, empty for the checkpoint's."""
    return ":".join([str(SAMPLES_VERSION), weights_of(model), weights_of(larger), *filter(None, [decoder])])


def differ_by_decoder(key: str, other: str) -> bool:
    """Whether samples of two keys differ by nothing but the decoder whose tokens they are."""
    return key.split(":")[:3] == other.split(":")[:3]


def sampled_by(model: str, decoder: str = "") -> str:
    """What samples are kept under: the weights whose tokens they are."""
    return f"{weights_of(model)}+{decoder}" if decoder else weights_of(model)


def sampled_in_use(registry: Registry, project_id: int, settings: Settings) -> str:
    """What the samples of a project's version in use are kept under."""
    decoder, _ = usable_decoder(registry, project_id, registry.champion(project_id), settings)
    return sampled_by(settings.model, decoder.version if decoder is not None else "")


class AnnotatedImage:
    """One image whose annotations become samples: encoded before, once, however many regions it has.

    Each model comes with its own embedding of the image; the larger one, where there is one, tells the model gap.
    Outlines are measured on the image's `pixels`, not at all without them.
    """

    def __init__(
        self,
        model: LoadedModel,
        embedding: ImageEmbedding,
        larger: tuple[LoadedModel, ImageEmbedding] | None = None,
        pixels: Pixels | None = None,
    ) -> None:
        self.hw = embedding.image_hw
        self._model, self._embedding, self._larger, self._pixels = model, embedding, larger, pixels

    def samples(self, annotation: Annotation, drawn: Sequence[DrawnMask] | None = None) -> tuple[list[SampleRow], str]:
        """The samples of an annotation, and why regions that have none have none.

        `drawn` are its objects on this image, where the task has several; without it, all are.
        """
        rows: list[SampleRow] = []
        problems: list[str] = []
        if drawn is None:
            drawn, problems = drawn_masks(annotation.result)
        for one in drawn:
            try:
                mask = region_to_mask(one.region, self.hw)
                if not mask.any():
                    raise RegionError("a region that covers a pixel", "an empty one", "delete it")
                rows.append(self._sample(annotation, one, mask))
            except ITEM_ERRORS as error:
                problems.append(f"region {one.name}: {reason_of(error)}")
        return rows, "; ".join(problems)[:2000]

    def examples(
        self,
        annotation: Annotation,
        drawn: Sequence[DrawnMask],
        kept: KeptObjects | None,
        settings: Settings,
    ) -> ExampleRow | None:
        """What the annotation's objects and the model's candidates on this image look like (`learning.examples`); None
        where the model's trunk tells no features.

        `kept` are the candidates that the pool has of the image; without them, or of others, they are made here. A
        region that cannot be read is left out, as `samples` says.
        """
        model, embedding = self._model, self._embedding
        if not (version := model.looks_version(embedding)):
            return None
        regions = marked_objects(drawn, self.hw)
        if kept is not None and (kept.hw, kept.looks.version) == (self.hw, version):
            proposed = kept.looks, kept.masks.logits(range(len(kept))) > 0
        else:
            found = finish(propose(model, embedding, (), None, "predicted-iou", settings))
            proposed = found.looks, found.objects.logits > 0
        in_part = settings.marked_in_part
        looks_of = partial(model.looks, embedding)
        outlines_of = (
            partial(measured, self._pixels, proposed, partial(masks_at, model, embedding))
            if self._pixels is not None
            else None
        )
        return make_examples(annotation, regions, proposed, looks_of, outlines_of, marked_in_part=in_part)

    def tuning_image(self, drawn: Sequence[DrawnMask], group: str) -> TuningImage:
        """The image with objects to tune a decoder on; without those that cannot be read or are empty."""
        from usam.training.decoder_tuning import TuningImage, shrink_mask

        embedding, side = to_tune(self._model, self._embedding), 4 * self._embedding.image_embed.shape[-1]
        small = [shrink_mask(one.mask, side) for one in marked_objects(drawn, self.hw)]
        masks = np.array([mask for mask in small if mask.any()], np.float32).reshape(-1, side, side)
        return TuningImage(embedding, masks, group)

    def _sample(self, annotation: Annotation, drawn: DrawnMask, mask: BoolMask) -> SampleRow:
        box_only = drawn.box_only
        prompts = paper_prompts(mask, f"{annotation.id}:{drawn.name}")
        small = self._model.outputs(self._embedding, prompts)
        iou = overlaps(small.logits, mask, box_only)
        targets = object_targets(self._model.name, iou, small.ious)
        if self._larger is not None:
            model, embedding = self._larger
            best = overlaps(model.outputs(embedding, prompts[:1]).logits, mask, box_only)[0, 1:].max()
            targets |= larger_targets(model.name, float(best), float(iou[0, 1:].max()))
        return SampleRow(
            annotation=annotation.id,
            region=drawn.name,
            checkpoint=sampled_by(self._model.name, self._model.decoder),
            updated_at=annotation.updated_at,
            task=annotation.task,
            label=drawn.label or "",
            box_only=box_only,
            iou_token=small.iou_token[0].astype(np.float16),
            mask_tokens=small.mask_tokens[0].astype(np.float16),
            targets=targets,
        )


def to_tune(model: LoadedModel, embedding: ImageEmbedding) -> ImageEmbedding:
    """An embedding where the model is, without what a decoder does not read."""
    return replace(embedding, stages=()).to(next(model.predictor.model.parameters()).device)


def marked_objects(drawn: Sequence[DrawnMask], hw: tuple[int, int]) -> list[MarkedObject]:
    """The objects of an annotation on an image of (H, W), without those that cannot be read or are empty."""
    regions = []
    for one in drawn:
        with suppress(*ITEM_ERRORS):
            mask = region_to_mask(one.region, hw)
            if mask.any():
                drawn_again = partial(region_to_mask, one.region, hw)
                source = mask if mask.size <= KEPT_PIXELS else drawn_again
                regions.append(MarkedObject(one.name, one.label or "", source, one.box_only))
    return regions


def masks_at(model: LoadedModel, embedding: ImageEmbedding, points: Float32s) -> tuple[Float32s, Float32s]:
    """The model's masks of points (N, P, 2) inside N objects: logits (N, 4, L, L) and their predicted IoU (N, 4)."""
    found = model.outputs(embedding, [Prompt(inside, np.ones(len(inside), np.int32)) for inside in points])
    return found.logits, np.clip(found.ious, 0, 1)


def measured(
    pixels: Pixels, proposed: tuple[ObjectLooks, BoolMask], asked: MasksAt, regions: Sequence[MarkedObject]
) -> tuple[Float32s, Float32s]:
    """Figures of T regions' outlines (T, C, F), and hints of what may be wrong with them (T, H), by masks of the model
    that is `asked`; NaN for boxes, which have no outline, and for copies of more than the first `COPIED` regions."""
    from usam.objects.outline_copies import COPIES
    from usam.objects.outlines import HINT_NAMES, OUTLINE_NAMES, measure_outline

    looks, masks = proposed
    figures = np.full((len(regions), len(COPIES), len(OUTLINE_NAMES)), np.nan, np.float32)
    hints = np.full((len(regions), len(HINT_NAMES)), np.nan, np.float32)
    image = None
    for k, region in enumerate(regions):
        if region.box_only:
            continue
        image = pixels() if image is None else image
        seed, scores = _seed(region.name), looks.shapes[:, -1]
        found = measure_outline(image, region.mask, masks, scores, asked, seed, copied=k < COPIED)
        figures[k], hints[k] = found.figures, found.hints
    return figures, hints


def paper_prompts(mask: BoolMask, name: str) -> list[Prompt]:
    """The single centre point and the dense prompt of 8 points; the same for the same object each time."""
    centre, dense = centre_point(mask), dense_points(mask, np.random.default_rng(_seed(name)))
    return [Prompt(centre[None], np.ones(1, np.int32)), Prompt(dense, np.ones(len(dense), np.int32))]


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def overlaps(logits: Float32s, mask: BoolMask, box_only: bool) -> Float32s:
    """(P, 4) IoU of decoded masks with a region: of pixels, or of boxes where the region is only a box."""
    if not box_only:
        from usam.training.truth import Truth

        truth = Truth(mask)
        return np.stack([truth.ious(prompt) for prompt in logits]).astype(np.float32)
    from usam.masks import box_iou, mask_box, resize_logits

    hw = (mask.shape[0], mask.shape[1])
    found = [resize_logits(one, hw) > 0 for one in logits.reshape(-1, *logits.shape[-2:])]
    boxes = np.stack([mask_box(one) if one.any() else np.zeros(4) for one in found])
    return np.asarray(box_iou(boxes, mask_box(mask)[None])[:, 0].reshape(logits.shape[:2]), np.float32)


def object_targets(checkpoint: str, iou: Float32s, samscore: Float32s) -> dict[str, list[float]]:
    """Head -> (M,) targets from the IoU and SamScore (2, 4) of the single and the dense prompt."""
    from usam.training.targets import best_iou, head_name, picked_iou

    best, dense = (float(value) for value in best_iou(iou))
    picked = float(picked_iou(iou[:1], samscore[:1])[0])
    return {
        head_name(checkpoint): [float(value) for value in iou[0, 1:]],
        "iou_dense_prompt": _three(dense),
        "iou_unsupervised": _three(picked),
        "prompt_gap": _three(0.5 + dense - best),
        "task_gap": _three(0.5 + best - picked),
    }


def larger_targets(larger: str, large: float, small: float) -> dict[str, list[float]]:
    """Targets that need a larger model: its own IoU head and the model gap. Both IoUs are of the best mask."""
    from usam.training.targets import head_name

    return {head_name(larger): _three(large), "model_gap": _three(0.5 + large - small)}


def _three(value: float) -> list[float]:
    return [min(max(value, 0.0), 1.0)] * 3


def prefer_mask_samples(rows: list[SampleRow]) -> list[SampleRow]:
    """Where any sample has pixels, those; else the boxes."""
    return [row for row in rows if not row.box_only] or rows


def to_batch(rows: list[SampleRow]) -> dict[str, Any]:
    """Samples as `usam.training` takes them: iou_token (N, D), mask_tokens (N, 4, D), targets {head: (N, M)},
    groups (N,), which are the tasks.

    What some samples do not tell of a head is NaN there. Where any sample has pixels, those that are boxes only are
    left out.
    """
    rows = prefer_mask_samples(rows)
    names = dict.fromkeys(head for row in rows for head in row.targets)
    unknown = [float("nan")] * 3
    return {
        "iou_token": np.stack([row.iou_token for row in rows]).astype(np.float32),
        "mask_tokens": np.stack([row.mask_tokens for row in rows]).astype(np.float32),
        "targets": {head: np.array([row.targets.get(head, unknown) for row in rows], np.float32) for head in names},
        "groups": np.array([row.task for row in rows]),
    }
