"""The model as jobs use it: images in, tokens and masks out, nothing shared with the engine that serves clicks.

Legend: H, W image in pixels; P prompts; D token width; outputs 0..3 of the decoder, 1..3 the multimask ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.prompts import Prompt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.runner import Encoded, TimedPredictor

UInt8Image = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Decoded:
    """All four outputs of P prompts, as numpy: logits (P, 4, h, w), samscore (P, 4), iou_token (P, D),
    mask_tokens (P, 4, D)."""

    logits: Float32s
    samscore: Float32s
    iou_token: Float32s
    mask_tokens: Float32s


class JobModel:
    """A checkpoint with its own heads, and the larger one that model gaps are measured against, if one is set."""

    def __init__(self, runner: TimedPredictor, heads: HeadSet | None, larger: TimedPredictor | None = None) -> None:
        self.runner, self.heads, self.larger = runner, heads, larger

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint whose tokens these are."""
        return self.runner.name

    @classmethod
    def load(cls, settings: Settings) -> JobModel:
        """Load what the settings name. Raises `CheckpointError` or `HeadsError`."""
        import torch

        from backend.inference.model import LoadedModel
        from usam.checkpoints import registry as checkpoints
        from usam.predictor.runner import TimedPredictor

        if settings.threads:
            torch.set_num_threads(settings.threads)
        heads = checkpoints.resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)

        def runner(name: str, own: HeadSet | None) -> TimedPredictor:
            loaded = LoadedModel.load(name, settings.device, own, Metrics(), random_weights=settings.random_weights)
            return TimedPredictor(name, loaded.predictor)

        larger = runner(settings.larger_model, None) if settings.larger_model else None
        return cls(runner(settings.model, heads), heads, larger)

    def encode(self, image: UInt8Image) -> Encoded:
        """Embedding of an image (H, W, 3) RGB."""
        return self.runner.encode(image)

    def decode(self, encoded: Encoded, prompts: Sequence[Prompt], runner: TimedPredictor | None = None) -> Decoded:
        """Decode prompts: boxes alone, or points that all say `here`. Results keep the order of the prompts."""
        runner = runner or self.runner
        parts: list[tuple[list[int], Any]] = []
        for places in _by_shape(prompts):
            group = [prompts[place] for place in places]
            boxes = [prompt.box for prompt in group if prompt.box is not None]
            if boxes:
                parts.append((places, runner.boxes(encoded, np.stack(boxes))))
            else:
                parts.append((places, runner.points(encoded, np.stack([prompt.points for prompt in group]))))
        order = np.argsort(np.concatenate([places for places, _ in parts]))

        def joined(name: str) -> Float32s:
            arrays = [getattr(outputs, name).float().cpu().numpy() for _, outputs in parts]
            return np.asarray(np.concatenate(arrays)[order], np.float32)

        return Decoded(joined("logits"), joined("samscore"), joined("iou_token"), joined("mask_tokens"))


def image_features(encoded: Encoded) -> Float32s:
    """(D,) mean of an image's embedding: near-duplicates have near-equal features."""
    mean = encoded.embedding.image_embed.float().mean(dim=(0, 2, 3))
    return np.asarray(mean.cpu().numpy(), np.float32)


def _by_shape(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Places of the prompts that can be decoded in one go: all boxes, all single points, and so on."""
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(0 if prompt.box is not None else len(prompt.points), []).append(place)
    return list(groups.values())
