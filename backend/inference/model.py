"""One loaded checkpoint: encode an image, decode prompts, propose the objects of a whole image.

Legend: P prompts, K objects, M = 3 masks of a prompt, D token width, L side of the low-resolution masks, H, W image in
pixels.

Masks stay at L x L here: only what is kept is enlarged, and not by whoever owns the model. The service and the jobs
propose by the same `inference.candidates.propose`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from backend.inference.precision import compiled_encoder, encoder_dtype
from backend.inference.scheduler import Steps
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.predictor.clean_proposals import Layout
from usam.prompts import Prompt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding
    from usam.predictor.own_decoder import TunedDecoder
    from usam.predictor.proposals import PromptOutputs

BoolMask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Item = TypeVar("Item")

CANDIDATES = 40
"""Distinct objects that are looked for on an image; what is shown is chosen among them (`inference.shown`)."""
LEAST_IOU = 0.2
"""Predicted IoU below which a mask is no candidate, whatever the setting."""


@dataclass(frozen=True, eq=False)
class DecodedObjects:
    """K masks that one checkpoint made.

    source       (K,) index of the prompt that each came from
    output       (K,) which of the prompt's three masks it is, 1..3
    logits       (K, L, L) foreground above 0
    iou          (K,) predicted IoU, 0..1, higher = better: the head's for this checkpoint, else SAM's own
    samscore     (K,) SAM's own estimate, 0..1
    scores       {head: (K,)} every head's score of the mask; gaps in -0.5..0.5, higher = more to gain
    iou_token    (K, D)
    mask_tokens  (K, 4, D)
    """

    source: IntArray
    output: IntArray
    logits: FloatArray
    iou: FloatArray
    samscore: FloatArray
    scores: dict[str, FloatArray]
    iou_token: FloatArray
    mask_tokens: FloatArray

    def __len__(self) -> int:
        return len(self.output)

    def take(self, rows: IntArray) -> DecodedObjects:
        """Some of the objects, in this order."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "scores"}
        return DecodedObjects(**arrays, scores={name: values[rows] for name, values in self.scores.items()})

    @classmethod
    def join(cls, parts: Sequence[DecodedObjects]) -> DecodedObjects:
        """One after the other; all have the same heads."""
        arrays = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls) if f.name != "scores"
        }
        scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
        return cls(**arrays, scores=scores)


@dataclass(frozen=True)
class ProposalGrid:
    """How an image is looked at that nobody has prompted: points a side, how many candidates are kept at most, and into
    how many `tiles` a side it is cut for a second pass with as many points each; 1: none."""

    points_per_side: int
    most: int
    tiles: int = 1


@dataclass(frozen=True, eq=False)
class ObjectLooks:
    """What K objects look like to the trunk (`usam.predictor.object_features`).

    features  (K, F) float16, F = 0 where the trunk's maps were not kept
    shapes    (K, S) place, size and stability
    version   what must be equal for two features to be comparable, empty where there are none
    """

    features: npt.NDArray[np.float16]
    shapes: FloatArray
    version: str


@dataclass(frozen=True, eq=False)
class ProposedObjects:
    """The distinct objects of one image of (H, W), best first, and the prompt that each came from.

    image_features  (D,) mean of the image's embedding: near-duplicate images have near-equal ones
    given           whether the prompts were somebody's, and not a grid's
    looks           what the objects look like
    layout          how their masks lie
    """

    objects: DecodedObjects
    prompts: list[Prompt]
    image_features: FloatArray
    hw: tuple[int, int]
    given: bool
    looks: ObjectLooks
    layout: Layout


class LoadedModel:
    """A checkpoint and its own heads. Only ever used by one thread. `decoder` is the version of a project's own that
    makes the masks, empty for the checkpoint's."""

    def __init__(self, name: str, predictor: Any, metrics: Metrics) -> None:
        self.name = name
        self.predictor = predictor
        predictor.keep_stages = True
        self.decoder = ""
        self.own_heads: HeadSet | None = predictor.heads
        self.encode_s = 0.0
        """Seconds that the last encoding took."""
        self.metrics = metrics

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return int(self.predictor.model.sam_mask_decoder.transformer_dim)

    @classmethod
    def load(cls, name: str, settings: Settings, metrics: Metrics, heads: HeadSet | None) -> LoadedModel:
        """Load a checkpoint. Raises `CheckpointError` or `HeadsError` as `usam.predictor.load.load` does."""
        import torch
        from threadpoolctl import threadpool_limits

        from usam.predictor.load import load

        if settings.threads:
            torch.set_num_threads(settings.threads)
        threadpool_limits(1, "blas")  # numpy's threads would wait for cores on which those of torch still spin
        predictor = load(name, settings.device, heads, weights=not settings.random_weights)
        predictor.encoder_dtype = encoder_dtype(settings, name)
        predictor.compiled = compiled_encoder(settings, predictor)
        return cls(name, predictor, metrics)

    def with_decoder(self, decoder: TunedDecoder) -> LoadedModel:
        """The same encoder with a project's own decoder. Raises `CheckpointError` where it does not fit."""
        from usam.predictor.own_decoder import with_decoder

        made = LoadedModel(self.name, with_decoder(self.predictor, decoder), self.metrics)
        made.own_heads, made.decoder = self.own_heads, decoder.version
        return made

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Embedding of an image (H, W, 3) RGB."""
        started = time.perf_counter()
        self.predictor.set_image(image)
        embedding: ImageEmbedding = self.predictor.embedding()
        self.encode_s = time.perf_counter() - started
        self.metrics.model_seconds.labels("encode", self.name).inc(self.encode_s)
        self.metrics.encoded.labels(self.name).inc()
        return embedding

    def outputs(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> PromptOutputs:
        """All four outputs of prompts in pixels of the image, in their order; one decoding for each shape of prompt."""
        from usam.predictor.proposals import PromptOutputs, decode_prompts

        started = time.perf_counter()
        self.predictor.set_embedding(embedding)
        groups = _same_shape(prompts)
        parts = [
            decode_prompts(self.predictor, self.predictor.prepare(*_arguments(prompts, group))) for group in groups
        ]
        order = np.argsort(np.concatenate([np.array(group) for group in groups]))
        self.metrics.model_seconds.labels("decode", self.name).inc(time.perf_counter() - started)
        self.metrics.decoded.labels(self.name).inc(len(prompts))
        return PromptOutputs(
            **{f.name: np.concatenate([getattr(part, f.name) for part in parts])[order] for f in fields(PromptOutputs)}
        )

    def decode(
        self,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        heads: HeadSet | None = None,
        selection: MaskSelection = "predicted-iou",
    ) -> DecodedObjects:
        """One mask of the three of each prompt, in their order, by predicted IoU or by SAM's own score.

        `heads`: a project's own, None for the checkpoint's; without any, SAM's own score chooses.
        """
        found = self.outputs(embedding, prompts)
        return selected(found, heads if heads is not None else self.own_heads, self.name, selection)[0]

    def decode_steps(
        self,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        heads: HeadSet | None,
        selection: MaskSelection,
        size: int,
    ) -> Steps[DecodedObjects]:
        """`decode` in steps of at most `size` prompts. At least one prompt is needed."""
        parts: list[DecodedObjects] = []
        for chunk in in_chunks(prompts, size):
            if parts:
                yield
            parts.append(self.decode(embedding, chunk, heads, selection))
        objects = DecodedObjects.join(parts)
        objects.source[:] = np.arange(len(prompts))
        return objects

    def looks(self, embedding: ImageEmbedding, logits: FloatArray, samscore: FloatArray) -> ObjectLooks:
        """What objects of masks (K, L, L), none of them empty, look like."""
        from usam.predictor.object_features import describe_shapes, pool_stages

        shapes, version = describe_shapes(logits, samscore), self.looks_version(embedding)
        if not version:
            return ObjectLooks(np.zeros((len(logits), 0), np.float16), shapes, "")
        return ObjectLooks(pool_stages(embedding.stages, logits > 0), shapes, version)

    def looks_version(self, embedding: ImageEmbedding) -> str:
        """`ObjectLooks.version` of objects on an image, empty where the trunk's maps were not kept."""
        from usam.checkpoints.registry import weights_of
        from usam.predictor.object_features import features_version

        return features_version(weights_of(self.name), embedding.stages) if embedding.stages else ""


def selected(
    outputs: PromptOutputs, heads: HeadSet | None, checkpoint: str, selection: MaskSelection
) -> list[DecodedObjects]:
    """The three masks of each of P prompts, the selected ones first: three sets of P objects."""
    samscore = np.clip(outputs.ious[:, 1:], 0, 1)
    scores = heads.score(outputs.iou_token, outputs.mask_tokens) if heads is not None else {}
    quality = heads.quality_for(checkpoint) if heads is not None else None
    iou = np.clip(scores.get(quality or "", samscore), 0, 1)
    order = np.argsort(-(samscore if selection == "samscore" else iou), axis=1, kind="stable")
    rows = np.arange(len(order))
    return [
        DecodedObjects(
            source=rows.copy(),
            output=(column + 1).astype(np.int64),
            logits=outputs.logits[rows, column + 1],
            iou=iou[rows, column],
            samscore=samscore[rows, column],
            scores={name: values[rows, column] for name, values in scores.items()},
            iou_token=outputs.iou_token,
            mask_tokens=outputs.mask_tokens,
        )
        for column in order.T
    ]


def enlarged(logits: FloatArray, hw: tuple[int, int]) -> BoolMask:
    """A low-resolution mask (..., L, L) at the image's size (..., H, W)."""
    from usam.masks import resize_logits

    return np.asarray(resize_logits(logits, hw) > 0)


def image_features(embedding: ImageEmbedding) -> FloatArray:
    """(D,) mean of an image's embedding."""
    return np.asarray(embedding.image_embed.float().mean(dim=(0, 2, 3)).cpu().numpy(), np.float32)


def in_chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`size` items at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _same_shape(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts that can be decoded in one go."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.points), prompt.box is not None), []).append(index)
    return list(groups.values())


def _arguments(
    prompts: Sequence[Prompt], group: Sequence[int]
) -> tuple[FloatArray | None, npt.NDArray[np.int32] | None, FloatArray | None]:
    """Points, labels and boxes of prompts of one shape, as the predictor takes them."""
    same = [prompts[index] for index in group]
    boxes = [prompt.box for prompt in same if prompt.box is not None]
    box = np.stack(boxes).astype(np.float32) if boxes else None
    if not len(same[0].points):
        return None, None, box
    points = np.stack([prompt.points for prompt in same]).astype(np.float32)
    return points, np.stack([prompt.labels for prompt in same]), box
