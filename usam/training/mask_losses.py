"""What a mask decoder is trained to do: the nano family from scratch, a project's own decoder from a finished one.

Legend: P prompts, M = 4 masks a prompt (the single mask, then the three of the multimask output), h, w the side of
the decoder's mask (a quarter of the input).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts.

    `spread`: share of the loss of the two masks that are not the best; `further`: weight of what else is meant.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    iou: float = 0.5
    single: float = 1.0
    multi: float = 1.0
    spread: float = 0.05
    further: float = 0.5


@dataclass(frozen=True)
class PromptLoss:
    """`total`: a scalar with a gradient; the rest is for the log and for the next round of clicks."""

    total: Tensor
    best_iou: Tensor
    """(P,) true IoU of the best of masks 1 to 3."""
    true_iou: Tensor
    """(P, 4)"""


def mask_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """Cross-entropy plus dice of (P, M, h, w) logits against a soft target (P, h, w) in [0, 1]: (P, M).

    Pixels of a target below 0 are not known and count for nothing.

    Focal loss is left out on purpose: with this little data it settles on empty masks.
    """
    flat = logits.float().flatten(2)
    goal = target.float().flatten(1)[:, None]
    known = (goal >= 0).float()
    goal = goal.clamp(min=0)
    cross_entropy = (F.softplus(flat) - flat * goal) * known
    probability = flat.sigmoid() * known
    overlap = 2 * (probability * goal).sum(-1)
    size = probability.sum(-1) + goal.sum(-1)
    dice = 1 - (overlap + 1) / (size + 1)
    return weights.cross_entropy * cross_entropy.sum(-1) / known.sum(-1).clamp(min=1) + weights.dice * dice


def true_ious(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of (P, M, h, w) logits above zero with a target (P, h, w) above one half: (P, M); 0 where both are empty.

    Pixels of a target below 0 are left out.
    """
    mask = ((logits > 0) & (target >= 0)[:, None]).flatten(2).float()
    goal = (target > 0.5).flatten(1).float()[:, None]
    both = (mask * goal).sum(-1)
    return both / (mask.sum(-1) + goal.sum(-1) - both).clamp(min=1.0)


def prompt_loss(
    logits: Tensor,
    predicted_iou: Tensor,
    target: Tensor,
    weights: LossWeights,
    one_click: bool,
    further: Tensor | None = None,
) -> PromptLoss:
    """Loss of all four masks of each prompt.

    The multimask output is judged by its best mask (a small `spread` keeps the others alive). The single mask is
    judged for itself, at a third where one click leaves open what is meant. Every predicted IoU is judged against
    the true IoU, squared.

    `further` (P, h, w): a second valid answer, -1 throughout where there is none. It is left to the best for it of the
    two masks that are not the object's, so that neither answer drives out the other.
    """
    parts = mask_loss(logits, target, weights)
    with torch.no_grad():
        ious = true_ious(logits, target)
    multi = parts[:, 1:]
    best, mask = multi.min(1)
    multi_loss = (1 - weights.spread) * best + weights.spread * multi.mean(1)
    if further is not None:
        others = mask_loss(logits[:, 1:], further, weights)
        others = others.masked_fill(F.one_hot(mask, others.shape[1]).bool(), torch.inf)
        multi_loss = multi_loss + weights.further * others.min(1).values
    single_loss = parts[:, 0] * (weights.single / 3 if one_click else weights.single)
    quality = F.mse_loss(predicted_iou.float(), ious, reduction="none").sum(1)
    total = weights.multi * multi_loss + single_loss + weights.iou * quality
    return PromptLoss(total.mean(), ious[:, 1:].max(1).values, ious)
