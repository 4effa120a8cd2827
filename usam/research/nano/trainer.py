"""One nano model in training: settings, one step, and a state to go on from.

Legend: B pictures, S input side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from usam.checkpoints.nano import Embedding, NanoSAM, build_size, decode, encode_images
from usam.checkpoints.nano_trunk import IMAGENET_MEAN, IMAGENET_STD
from usam.research.nano.cheap_layers import freeze_costly, use_plain_attention
from usam.research.nano.samples import Batch, PromptCounts, PromptGroup, correction_clicks
from usam.training.mask_losses import LossWeights, prompt_loss


@dataclass(frozen=True)
class NanoSettings:
    """Everything that shapes a run. Rates are for AdamW; shares are of the budget."""

    minutes: float = 60.0
    steps: int | None = None
    """The budget in steps, in place of minutes, to compare runs that learn alike."""
    side: int | None = None
    """Pixels of the training pictures, where not the model's own size; the weights fit any multiple of 32."""
    batch: int = 8
    prompts: PromptCounts = field(default_factory=PromptCounts)
    rate: float = 6e-4
    trunk_rate: float = 0.15
    """The trunk's learning rate as a share of `rate`."""
    frozen_blocks: int = 3
    """How many of the trunk's seven stages stay as ImageNet left them (three: strides 2 to 8)."""
    warm_up_steps: int = 100
    decay_share: float = 0.6
    """The rate falls to zero, linearly, over this last share of the budget."""
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.998
    synthetic: float = 0.15
    pasted: float = 0.4
    joined: float = 0.0
    """Share of the single clicks that accept a part or a union of objects as well."""
    corrected: int = 16
    """Prompts a step that get one or two more clicks where their mask is wrong."""
    loss: LossWeights = field(default_factory=LossWeights)
    threads: int = 1
    workers: int = 2
    """Processes that share every step, each with a batch of its own; on a busy CPU better than threads."""
    seed: int = 0
    count_pauses: bool = False
    """Whether time in which the process was stopped uses up the budget, to end at a set hour."""
    save_every: float = 120.0
    """Seconds between checkpoints."""


def learning_rate(settings: NanoSettings, step: int, progress: float) -> float:
    """The rate at `step` (from 0) with `progress` in [0, 1] of the budget used."""
    warm = min(1.0, (step + 1) / max(1, settings.warm_up_steps))
    left = (1.0 - progress) / max(settings.decay_share, 1e-9)
    return settings.rate * warm * min(1.0, max(0.0, left))


def normalise(images: Any) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 as `SAM2Transforms` gives."""
    mean = torch.tensor(IMAGENET_MEAN) * 255.0
    std = torch.tensor(IMAGENET_STD) * 255.0
    return ((torch.from_numpy(images).float() - mean) / std).permute(0, 3, 1, 2)


def share_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients over all workers, in one message; nothing to do for a single one."""
    if not dist.is_initialized():
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = flat[at : at + gradient.numel()].view(gradient.shape)
        at += gradient.numel()


class Trainer:
    """One model in training. `step` takes a batch; `state` and `restore` make it resumable."""

    def __init__(self, model: NanoSAM, settings: NanoSettings, rank: int = 0) -> None:
        self.model, self.settings = model.train().to(memory_format=torch.channels_last), settings
        self.steps = 0
        freeze_costly(model, settings.frozen_blocks)
        use_plain_attention(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=settings.rate, betas=(0.9, 0.98), fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.rng = np.random.default_rng(settings.seed + 1 + rank)

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad or not parameter.numel():
                continue
            share = self.settings.trunk_rate if ".trunk." in name else 1.0
            decay = self.settings.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
            groups.setdefault((share, decay), []).append(parameter)
        return [{"params": params, "weight_decay": decay, "share": share} for (share, decay), params in groups.items()]

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """One update; gives the loss and the mean best IoU of each kind of prompt."""
        rate = learning_rate(self.settings, self.steps, progress)
        for rated in self.optimizer.param_groups:
            rated["lr"] = rate * rated["share"]
        report: dict[str, float] = {}
        with torch.autocast("cpu", torch.bfloat16):
            whole = encode_images(self.model, normalise(batch.images))
            seen = whole.leaves()
            total = sum(len(group.owner) for group in batch.groups)
            corrected = int(self.rng.integers(len(batch.groups))) if self.settings.corrected else -1
            for index, group in enumerate(batch.groups):
                logits = self._backward(seen, group, None, len(group.owner) / total, report)
                if index == corrected:
                    self._correct(seen, group, logits, total, report)
        outputs = [whole.image, *whole.high_res]
        torch.autograd.backward(outputs, [leaf.grad for leaf in (seen.image, *seen.high_res)])
        share_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            with torch.no_grad():
                keep = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {"rate": rate, "norm": float(norm), **report}

    def _backward(
        self,
        seen: Embedding,
        group: PromptGroup,
        mask_input: Tensor | None,
        share: float,
        report: dict[str, float],
        name: str = "",
    ) -> Tensor:
        owner, points = torch.from_numpy(group.owner), torch.from_numpy(group.points)
        labels, target = torch.from_numpy(group.labels), torch.from_numpy(group.targets)
        further = None if group.further is None else torch.from_numpy(group.further)
        logits, ious = decode(self.model, seen, owner, points, labels, mask_input)
        with torch.autocast("cpu", enabled=False):
            loss = prompt_loss(logits, ious, target, self.settings.loss, group.kind == "click", further)
        torch.autograd.backward(loss.total * share)
        report["loss"] = report.get("loss", 0.0) + float(loss.total.detach()) * share
        report[name or group.kind] = float(loss.best_iou.mean())
        return logits.detach().float()

    def _correct(
        self, seen: Embedding, group: PromptGroup, logits: Tensor, total: int, report: dict[str, float]
    ) -> None:
        chosen = self.rng.permutation(len(group.owner))[: self.settings.corrected]
        part = PromptGroup(
            "points", group.owner[chosen], group.points[chosen], group.labels[chosen], group.targets[chosen]
        )
        column = int(self.rng.integers(4))
        before = logits[torch.from_numpy(chosen)][:, column : column + 1]
        for _ in range(1 + int(self.rng.integers(2))):
            points, labels = correction_clicks(before[:, 0].numpy(), part.targets, self.rng)
            part = replace(
                part,
                points=np.concatenate([part.points, points], 1),
                labels=np.concatenate([part.labels, labels], 1),
            )
            mask_input = before.clamp(-32, 32) if self.rng.random() < 0.5 else None
            after = self._backward(seen, part, mask_input, len(chosen) / total, report, "corrected")
            before = after[:, :1]

    def averaged(self) -> NanoSAM:
        """A copy of the model with the averaged weights, in eval mode."""
        copy: NanoSAM = build_size(self.model.nano_size)
        copy.load_state_dict(self.model.state_dict())
        names = [n for n, p in self.model.named_parameters() if p.requires_grad and p.numel()]
        ours = dict(copy.named_parameters())
        with torch.no_grad():
            for name, value in zip(names, self.average, strict=True):
                ours[name].copy_(value)
        return copy

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, for `torch.save`."""
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for ours, value in zip(self.average, state["average"], strict=True):
            ours.copy_(value)
        self.steps = int(state["steps"])
