"""One loaded checkpoint, as the engine's thread uses it: encode an image, decode prompts, choose among masks.

Legend: P prompts, K points of a prompt, M = 3 masks of a prompt, D token width, L side of the low-resolution
masks, H, W image in pixels.

Masks stay at L x L here. A click has three and needs one, a grid has hundreds and keeps twenty: only what
is kept is enlarged, and not in the engine's thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.metrics.service import Metrics
from usam.active.mask_selection import MaskSelection
from usam.prompts import Prompt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding

FloatArray = npt.NDArray[np.float32]
MULTIMASK = 3


@dataclass(frozen=True, eq=False)
class Candidate:
    """The best of the three masks that one prompt gave.

    logits    (L, L) low-resolution mask, foreground above 0
    iou       predicted IoU, 0..1, higher = better: the head's for this checkpoint, else SAM's own
    samscore  SAM's own estimate, 0..1
    scores    every head's score of this mask; gaps in -0.5..0.5, higher = more to gain
    output    decoder output, 1..3
    others    the other two masks of the prompt, better first, where they were asked for
    """

    logits: FloatArray
    iou: float
    samscore: float
    scores: dict[str, float]
    output: int
    checkpoint: str
    others: tuple[Candidate, ...] = field(default=(), repr=False)

    def gap(self, name: str) -> float:
        """A gap by name; 0 where the heads do not tell it."""
        return self.scores.get(name, 0.0)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of P prompts as numpy: iou_token (P, D), mask_tokens (P, 4, D), ious (P, 4) by SAM."""

    iou_token: FloatArray
    mask_tokens: FloatArray
    ious: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """Several chunks as one."""
        return cls(
            np.concatenate([part.iou_token for part in parts]),
            np.concatenate([part.mask_tokens for part in parts]),
            np.concatenate([part.ious for part in parts]),
        )


class LoadedModel:
    """A checkpoint and its own heads. Only ever used by one thread."""

    def __init__(self, name: str, predictor: Any, metrics: Metrics) -> None:
        self.name = name
        self.predictor = predictor
        self.own_heads: HeadSet | None = predictor.heads
        self.encode_s = 0.0
        """Seconds that the last encoding took."""
        self._metrics = metrics
        encoder = predictor.model.sam_prompt_encoder
        self.low_res_hw = (int(encoder.mask_input_size[0]), int(encoder.mask_input_size[1]))

    @classmethod
    def load(
        cls, name: str, device: str, heads: HeadSet | None, metrics: Metrics, *, random_weights: bool = False
    ) -> LoadedModel:
        """Load a checkpoint. Raises `CheckpointError` or `HeadsError` as `usam.predictor.load.load` does."""
        from usam.checkpoints import registry as checkpoints
        from usam.predictor.load import load

        if not random_weights:
            return cls(name, load(name, device, heads), metrics)
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        from usam.predictor.patch import patch_sam2

        model = checkpoints.build_model(name, weights=False).to(checkpoints.pick_device(device))
        predictor = SAM2ImagePredictor(model)
        side = model.sam_image_embedding_size
        predictor._bb_feat_sizes = [(side * 4, side * 4), (side * 2, side * 2), (side, side)]
        predictor.checkpoint_name = name
        return cls(name, patch_sam2(predictor, heads), metrics)

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """Embedding of an image (H, W, 3) RGB."""
        started = time.perf_counter()
        self.predictor.set_image(image)
        embedding: ImageEmbedding = self.predictor.embedding()
        self.encode_s = time.perf_counter() - started
        self._metrics.model_seconds.labels("encode", self.name).inc(self.encode_s)
        self._metrics.encoded.labels(self.name).inc()
        return embedding

    def decode(
        self,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        heads: HeadSet | None,
        choice: MaskSelection = "predicted-iou",
        *,
        others: bool = False,
    ) -> list[Candidate]:
        """One mask of the three of each prompt (in pixels of the image), by predicted IoU or by SAM's own score.

        `heads`: a project's own, None for the checkpoint's; without any, SAM's own score chooses. `others`: keep the
        other two masks as well. Prompts of one shape are decoded together.
        """
        chosen: list[Candidate | None] = [None] * len(prompts)
        for group in _same_shape(prompts):
            found = self._decode(embedding, [prompts[i] for i in group], heads, choice, others)
            for place, candidate in zip(group, found, strict=True):
                chosen[place] = candidate
        return [candidate for candidate in chosen if candidate is not None]

    def tokens(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> Tokens:
        """Tokens of prompts that all have the same number of points and boxes."""
        started = time.perf_counter()
        arguments = self._set(embedding, prompts)
        out = self.predictor.predict_tokens(**arguments)
        self._count(started, len(prompts))
        return Tokens(
            iou_token=out.iou_token.float().cpu().numpy(),
            mask_tokens=out.mask_tokens.float().cpu().numpy(),
            ious=out.ious.float().cpu().numpy(),
        )

    def _decode(
        self,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        heads: HeadSet | None,
        choice: MaskSelection,
        others: bool,
    ) -> list[Candidate]:
        started = time.perf_counter()
        self.predictor.set_heads(heads if heads is not None else self.own_heads)
        arguments = self._set(embedding, prompts)
        _, ious, low_res, scores = self.predictor.predict(**arguments)
        ious = ious.reshape(len(prompts), MULTIMASK)
        low_res = low_res.reshape(len(prompts), MULTIMASK, *self.low_res_hw)
        by_head = {name: values.reshape(len(prompts), MULTIMASK) for name, values in scores.items()}
        used: HeadSet | None = self.predictor.heads
        quality = used.quality_for(self.name) if used is not None else None
        predicted = by_head.get(quality or "", ious)
        self._count(started, len(prompts))

        def candidate(p: int, m: int, rest: tuple[Candidate, ...] = ()) -> Candidate:
            return Candidate(
                logits=np.array(low_res[p, m], np.float32),
                iou=float(np.clip(predicted[p, m], 0, 1)),
                samscore=float(np.clip(ious[p, m], 0, 1)),
                scores={name: float(values[p, m]) for name, values in by_head.items()},
                output=m + 1,
                checkpoint=self.name,
                others=rest,
            )

        found = []
        for p, order in enumerate(np.argsort(-(ious if choice == "samscore" else predicted), axis=1, kind="stable")):
            first, *rest = (int(m) for m in order)
            found.append(candidate(p, first, tuple(candidate(p, m) for m in rest) if others else ()))
        return found

    def _set(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Set the image as if it were L x L pixels, so that no mask is enlarged, and scale the prompts to
        it."""
        height, width = embedding.image_hw
        scale = np.array([self.low_res_hw[1] / width, self.low_res_hw[0] / height], np.float32)
        self.predictor.set_embedding(replace(embedding, image_hw=self.low_res_hw))
        arguments: dict[str, Any] = {}
        limit = np.nextafter(np.array([self.low_res_hw[1], self.low_res_hw[0]], np.float32), np.float32(0))
        if len(prompts[0].points):
            points = np.stack([prompt.points for prompt in prompts]) * scale
            arguments["point_coords"] = np.minimum(points, limit).astype(np.float32)
            arguments["point_labels"] = np.stack([prompt.labels for prompt in prompts])
        if prompts[0].box is not None:
            boxes = np.stack([p.box for p in prompts if p.box is not None])
            arguments["box"] = (boxes * np.tile(scale, 2)).astype(np.float32)
        return arguments

    def _count(self, started: float, prompts: int) -> None:
        self._metrics.model_seconds.labels("decode", self.name).inc(time.perf_counter() - started)
        self._metrics.decoded.labels(self.name).inc(prompts)


def _same_shape(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts that can be decoded in one go."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.points), prompt.box is not None), []).append(index)
    return list(groups.values())
