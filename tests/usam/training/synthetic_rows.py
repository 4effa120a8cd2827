"""Token tables out of a hidden truth: what the nine heads should find, with noise that they cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEADS = (
    "iou_nano_s",
    "iou_nano_m",
    "iou_dense_prompt",
    "iou_unsupervised",
    "model_gap",
    "prompt_gap",
    "task_gap",
)


@dataclass(frozen=True)
class Synthetic:
    """iou_token (N, D), mask_tokens (N, 4, D), targets {head: (N, 3)}, groups (N,)."""

    iou_token: np.ndarray
    mask_tokens: np.ndarray
    targets: dict[str, np.ndarray]
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> Synthetic:
        targets = {name: values[rows] for name, values in self.targets.items()}
        return Synthetic(self.iou_token[rows], self.mask_tokens[rows], targets, self.groups[rows])


def synthetic_rows(
    count: int, *, width: int = 32, seed: int = 0, offset: int = 1, shift: float = 0.0, noise: float = 0.3
) -> Synthetic:
    """`count` objects, four an image. Output m's IoU is told by mask token m - 1 + `offset` and the IoU token.

    `shift` moves every target's logit: the same tokens mean worse (or better) masks than elsewhere.
    """
    world, rng = np.random.default_rng(123), np.random.default_rng(seed)
    latent = rng.normal(size=(count, 4, 6))
    shared = rng.normal(size=(count, 6))
    mix = [world.normal(size=(6, width)) / 6**0.5 for _ in range(3)]
    iou_token = np.tanh(shared @ mix[0]) + 0.05 * rng.normal(size=(count, width))
    mask_tokens = np.tanh(latent @ mix[1] + 0.5 * (shared @ mix[2])[:, None])
    mask_tokens += 0.05 * rng.normal(size=mask_tokens.shape) + np.linspace(-1, 1, 4)[:, None]
    read = latent[:, offset : offset + 3]
    targets = {}
    for number, name in enumerate(HEADS):
        slope, bend = world.normal(size=(2, 6)) / 6**0.5
        logit = 1.5 * (read @ slope) + np.abs(shared @ bend)[:, None] - 0.3 * number + shift
        logit = logit + noise * rng.normal(size=(count, 3))
        targets[name] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return Synthetic(iou_token.astype(np.float16), mask_tokens.astype(np.float16), targets, np.arange(count) // 4)
