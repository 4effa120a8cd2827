"""Probability maps averaged over what the entropy baselines vary, gathered while prompts are decoded.

Legend: N objects of a group, 3 multimask outputs, R side of the common low-resolution grid.

UncertainSAM (arXiv 2505.05049) measures the entropy of an averaged map: over the three outputs, weighted by
SamScore (h_a), over eight single-point prompts (h_xp), over models (h_theta), over altered images (h_t), and
over all of them at once (h_y). h_std is the entropy of a single map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from usam.predictor.entropy import augmentations, mask_entropy
from usam.research.datasets.record import UInt8Image
from usam.research.tokens.runner import Outputs


def altered_images(image: UInt8Image, image_id: str) -> list[UInt8Image]:
    """The altered copies of h_t (`usam.predictor.entropy.augmentations`), their noise depends on `image_id` alone."""
    seed = int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big")
    return list(augmentations(image, np.random.default_rng(seed)).values())


class Average:
    """A running mean of (N, ...) maps."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, maps: Tensor) -> None:
        """Take in one more."""
        self._sum = maps.clone() if self._sum is None else self._sum.add_(maps)
        self._count += 1

    @property
    def mean(self) -> Tensor:
        """The mean of what was added."""
        if self._sum is None:
            raise ValueError("nothing was added")
        return self._sum / self._count


@dataclass(frozen=True)
class Maps:
    """One model's averaged maps for N objects: `single`, `prompts`, `images` (N, 3, R, R); `outputs`,
    `everything` (N, R, R)."""

    single: Tensor
    outputs: Tensor
    prompts: Tensor
    images: Tensor
    everything: Tensor


def average(points: Sequence[Outputs], altered: Sequence[Outputs], side: int) -> Maps:
    """Average over single-point prompts (the centre point first) and over altered images, on a grid of `side`."""
    prompts, images, everything = Average(), Average(), Average()
    first = _probabilities(points[0], side)
    for outputs in points:
        maps = first if outputs is points[0] else _probabilities(outputs, side)
        prompts.add(maps)
        everything.add(_mixed(maps, outputs))
    images.add(first)
    for outputs in altered:
        maps = _probabilities(outputs, side)
        images.add(maps)
        everything.add(_mixed(maps, outputs))
    return Maps(first, _mixed(first, points[0]), prompts.mean, images.mean, everything.mean)


def _probabilities(outputs: Outputs, side: int) -> Tensor:
    logits = outputs.logits[:, 1:]
    if logits.shape[-1] != side:
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return logits.sigmoid()


def _mixed(maps: Tensor, outputs: Outputs) -> Tensor:
    """(N, R, R): the three outputs' maps weighted by their SamScore."""
    scores = outputs.samscore[:, 1:].clamp(min=0)
    total = scores.sum(dim=1, keepdim=True)
    weights = torch.where(total > 0, scores / total.clamp(min=1e-12), torch.full_like(scores, 1 / scores.shape[1]))
    return torch.einsum("nk,nkhw->nhw", weights, maps)


def entropies(maps: Sequence[Maps]) -> list[dict[str, npt.NDArray[np.float32]]]:
    """For each model's maps the six columns, each (N, 3) float32, bits, higher = less sure."""
    theta, everything = Average(), Average()
    for each in maps:
        theta.add(each.single)
        everything.add(each.everything)
    h_theta, h_y = _entropy(theta.mean), _entropy(everything.mean)
    return [
        {
            "h_std": _entropy(each.single),
            "h_a": _entropy(each.outputs),
            "h_xp": _entropy(each.prompts),
            "h_theta": h_theta,
            "h_t": _entropy(each.images),
            "h_y": h_y,
        }
        for each in maps
    ]


def _entropy(maps: Tensor) -> npt.NDArray[np.float32]:
    values = mask_entropy(maps).cpu().numpy()
    return np.repeat(values[:, None], 3, axis=1) if values.ndim == 1 else values
