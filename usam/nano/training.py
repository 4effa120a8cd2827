"""Training of a nano model against the clock: a budget of minutes, resumable at any moment.

Legend: B pictures, P prompts of a group, D token width, S input side, m = S / 4.

The learning rate follows the share of the budget that is used up, not a number of steps, so that a busy machine
shortens the training but never cuts off its decay. Time in which the process was stopped does not count.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam.transformer import Attention
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from usam.errors import CheckpointError, TrainingError
from usam.nano.losses import LossWeights, prompt_loss
from usam.nano.model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIZES,
    Embedding,
    NanoSAM,
    build_size,
    decode,
    encode_images,
    save_nano,
)
from usam.nano.samples import (
    Batch,
    PromptCounts,
    PromptGroup,
    StoredImage,
    correction_clicks,
    draw_batch,
)


@dataclass(frozen=True)
class NanoSettings:
    """Everything that shapes a run. Rates are for AdamW; shares are of the budget."""

    minutes: float = 60.0
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


class _Batches(IterableDataset[Batch]):
    def __init__(self, store: Sequence[StoredImage], side: int, settings: NanoSettings, seed: int) -> None:
        self.store, self.side, self.settings, self.seed = store, side, settings, seed

    def __iter__(self) -> Iterator[Batch]:
        import cv2

        cv2.setNumThreads(1)
        rng = np.random.default_rng(self.seed)
        while True:
            s = self.settings
            yield draw_batch(self.store, s.batch, self.side, s.prompts, rng, s.synthetic, s.pasted)


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


class PlainAttention(Attention):  # type: ignore[misc]
    """SAM 2's attention written out: with a handful of tokens a CPU is several times faster without fusing it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query = self._separate_heads(self.q_proj(q), self.num_heads)
        key = self._separate_heads(self.k_proj(k), self.num_heads)
        value = self._separate_heads(self.v_proj(v), self.num_heads)
        with torch.autocast("cpu", enabled=False):
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            out = scores.softmax(-1) @ value
        return self.out_proj(self._recombine_heads(out))  # type: ignore[no-any-return]


def use_plain_attention(model: NanoSAM) -> None:
    """Make the decoder's attentions `PlainAttention`; parameters and results stay the same."""
    for module in model.sam_mask_decoder.transformer.modules():
        if type(module) is Attention:
            module.__class__ = PlainAttention


class DenseStride(Conv2dSame):
    """A strided depthwise convolution taken densely and thinned out: its gradient is twenty times faster."""

    def forward(self, features: Tensor) -> Tensor:
        padded = pad_same(features, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        dense = F.conv2d(padded, self.weight, self.bias, 1, 0, self.dilation, self.groups)
        return dense[..., :: self.stride[0], :: self.stride[1]]


def freeze_costly(model: NanoSAM, stages: int) -> None:
    """Stop the gradient for the first `stages` of the trunk and for all its depthwise kernels.

    Both are a few per cent of the weights and most of the time of a step on a CPU.
    """
    features = model.image_encoder.trunk.features
    features.conv_stem.requires_grad_(False)
    features.blocks[:stages].requires_grad_(False)
    for module in features.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.requires_grad_(False)
    for module in features.blocks[stages:].modules():
        if isinstance(module, Conv2dSame) and module.groups > 1 and module.stride[0] > 1:
            module.__class__ = DenseStride


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


def share_progress(seconds: float) -> float:
    """The seconds of the first worker's clock, so that all take the same rate and stop together."""
    if not dist.is_initialized():
        return seconds
    shared = torch.tensor([seconds], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


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
        logits, ious = decode(self.model, seen, owner, points, labels, mask_input)
        with torch.autocast("cpu", enabled=False):
            loss = prompt_loss(logits, ious, target, self.settings.loss, one_click=group.kind == "click")
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


class Clock:
    """Seconds of work, without the time in which the process was stopped unless `count_pauses`."""

    def __init__(
        self,
        before: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        count_pauses: bool = False,
    ) -> None:
        self._now, self._last, self.seconds, self._count_pauses = now, now(), before, count_pauses
        self._typical = 0.0

    def tick(self) -> float:
        """Count the step that just ended; a step ten times as long as usual (and over 10 s) counts as usual."""
        now = self._now()
        took, self._last = now - self._last, now
        if not self._count_pauses and self._typical and took > max(10.0, 10 * self._typical):
            took = self._typical
        else:
            self._typical = took if not self._typical else 0.9 * self._typical + 0.1 * took
        self.seconds += took
        return self.seconds


def replace_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def load_start(path: Path) -> dict[str, Tensor]:
    """Weights to begin from: a .safetensors file or a run's stable.pt. Raises `TrainingError` for others."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {key: value.float() for key, value in load_file(path).items()}
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except Exception as error:
        raise TrainingError("weights to begin from", f"{path}: {error}", "name a run's stable.pt") from error
    return weights


def save_state(path: Path, state: dict[str, Any]) -> None:
    """`torch.save`, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train_nano(
    name: str,
    store: Sequence[StoredImage],
    out: Path,
    settings: NanoSettings,
    start: dict[str, Tensor] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Train `name` for `settings.minutes` and write `out`/<name>.safetensors (averaged weights); returns its path.

    A run that was stopped goes on from `out`/state.pt. `start`: weights to begin from, such as those of the other
    size (tensors of another shape are passed over); without it the trunk starts from ImageNet. The weights as they
    are when the decay of the learning rate begins are kept as `out`/stable.pt, to start another run from.
    Raises `TrainingError` when the loss is no longer finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    if settings.workers == 1:
        return _train(name, store, out, settings, start, log)
    context = torch.multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=_join, args=(meeting, rank, name, store, out, settings, start), daemon=False)
            for rank in range(1, settings.workers)
        ]
        for other in others:
            other.start()
        try:
            _meet(meeting, 0, settings)
            return _train(name, store, out, settings, start, log)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                other.join(30)
                if other.is_alive():
                    other.terminate()


def _meet(meeting: str, rank: int, settings: NanoSettings) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=settings.workers)


def _join(
    meeting: str,
    rank: int,
    name: str,
    store: Sequence[StoredImage],
    out: Path,
    settings: NanoSettings,
    start: dict[str, Tensor] | None,
) -> None:
    _meet(meeting, rank, settings)
    _train(name, store, out, settings, start, log=lambda line: None)


def _train(
    name: str,
    store: Sequence[StoredImage],
    out: Path,
    settings: NanoSettings,
    start: dict[str, Tensor] | None,
    log: Callable[[str], None],
) -> Path:
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if name not in SIZES:
        raise CheckpointError(f"one of {', '.join(SIZES)}", repr(name), "pick a nano model")
    size = replace(SIZES[name], image_size=settings.side or SIZES[name].image_size)
    model = build_size(size, pretrained_trunk=start is None)
    if start is not None:
        ours = model.state_dict()
        model.load_state_dict({**ours, **{k: v for k, v in start.items() if ours[k].shape == v.shape}})
    else:
        scale_neck(model, store)
    trainer, before = Trainer(model, settings, rank), 0.0
    if (out / "state.pt").is_file():
        state = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
        trainer.restore(state)
        before = float(state["seconds"])
    batches = _Batches(store, model.image_size, settings, settings.seed + 7919 * trainer.steps + 104729 * rank)
    # spawned: a forked child of a process whose torch threads have started can hang
    loader = iter(
        DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4, multiprocessing_context="spawn")
    )
    if rank == 0:
        replace_text(out / "settings.json", json.dumps({"model": name, **asdict(settings)}, indent=1))
    keeper = Keeper(out, name, trainer, settings, before, log)
    batch = next(loader)
    clock, budget = Clock(before, count_pauses=settings.count_pauses), settings.minutes * 60.0
    while (progress := share_progress(clock.seconds) / budget) < 1.0:
        figures = trainer.step(batch, progress)
        if not math.isfinite(figures["loss"]):
            raise TrainingError("a finite loss", str(figures["loss"]), "lower the learning rate")
        clock.tick()
        if rank == 0:
            keeper.note(figures, clock.seconds, progress)
        batch = next(loader)
    return keeper.finish(clock.seconds) if rank == 0 else out


class Keeper:
    """Writes the log, the state to go on from and the weights so far."""

    def __init__(
        self,
        out: Path,
        name: str,
        trainer: Trainer,
        settings: NanoSettings,
        seconds: float,
        log: Callable[[str], None],
    ) -> None:
        self.out, self.name, self.trainer, self.settings, self.log = out, name, trainer, settings, log
        self.means: dict[str, float] = {}
        self.saved = seconds
        self.stable_kept = (out / "stable.pt").is_file()

    def note(self, figures: dict[str, float], seconds: float, progress: float) -> None:
        """Take in one step."""
        for key, value in figures.items():
            self.means[key] = 0.98 * self.means.get(key, value) + 0.02 * value
        if self.trainer.steps % 25 == 0:
            shown = " ".join(f"{key} {value:.3g}" for key, value in self.means.items())
            self.log(f"step {self.trainer.steps} minute {seconds / 60:.2f} {shown}")
        if not self.stable_kept and progress >= 1 - self.settings.decay_share:
            save_state(self.out / "stable.pt", {"model": self.trainer.model.state_dict()})
            self.stable_kept = True
        if seconds - self.saved >= self.settings.save_every:
            self._save(seconds)

    def _save(self, seconds: float) -> Path:
        self.saved = seconds
        save_state(self.out / "state.pt", {**self.trainer.state(), "seconds": seconds})
        path = self.out / f"{self.name}.safetensors"
        save_nano(self.trainer.averaged(), path, {"steps": str(self.trainer.steps)})
        return path

    def finish(self, seconds: float) -> Path:
        """Save once more; the path of the weights."""
        path = self._save(seconds)
        self.log(f"finished: {self.trainer.steps} steps, {path.name}")
        return path


@torch.no_grad()
def scale_neck(model: NanoSAM, store: Sequence[StoredImage], count: int = 8) -> None:
    """Divide each lateral convolution's weights by the size of what it reads, so that all levels start alike."""
    rng = np.random.default_rng(0)
    batch = draw_batch(store, count, model.image_size, PromptCounts(1, 0, 0), rng)
    features = model.image_encoder.trunk(normalise(batch.images))
    for conv, feature in zip(model.image_encoder.neck.convs, features[::-1], strict=True):
        conv.conv.weight /= feature.pow(2).mean().sqrt().clamp(min=1e-3)
        nn.init.zeros_(conv.conv.bias)
