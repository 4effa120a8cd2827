"""One network over its epochs: each head keeps its best.

Legend: N rows (objects), B rows of a batch, D token width, T heads. Losses are squared errors of values in
[0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import TrainingError
from usam.heads.head_set import HeadSet
from usam.training.network import Layers, Rows, Scale, StackedHeads
from usam.training.settings import TrainSettings
from usam.training.split import Split

Progress = Callable[[int, dict[str, float]], None]
"""Called after each epoch of each network with its number and each head's validation loss; may raise to
stop.
"""


@dataclass(frozen=True)
class Trained:
    """One network's outcome: layers for raw tokens and validation loss of each head's best epoch."""

    layers: dict[str, Layers]
    losses: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Half-width products where the device has them in hardware; weights and sums stay float32."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
        name = "bfloat16" if fast else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _cpu_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train_together(
    rows: Rows,
    split: Split,
    settings: TrainSettings,
    init: HeadSet | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the rows' heads in one network; each head's layers are those of its best epoch on the
    validation rows.

    Reproducible by `settings.seed` on one device. Leaves the global random state as it was.
    """
    device = choose_device(settings.device)
    dtype = choose_precision(settings.precision, device)
    scale = Scale.of(rows, split.train)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = _network(rows, split.train, settings, init, scale).to(device)
        data = _Data.of(rows, scale, device, dtype)
        train = torch.from_numpy(split.train).to(device)
        validation = torch.from_numpy(split.validation).to(device)
        optimiser, schedule = _optimiser(network, settings, len(train))
        anchors = [parameter.detach().clone() for parameter in network.parameters()] if init else []
        spread = data.variance(train) if settings.optimiser == "adamw" else torch.ones(len(rows.names), device=device)
        kept = _Kept(rows.names)
        if init is not None:
            kept.offer(network, data.losses(network, validation))
        history: list[dict[str, float]] = []
        for epoch in range(settings.epochs):
            network.train()
            shuffled = train[torch.randperm(len(train), device=device)]
            for batch in torch.split(shuffled, settings.batch):
                loss = data.objective(network, batch, settings.loss, spread)
                if anchors:
                    moved = zip(network.parameters(), anchors, strict=True)
                    loss = loss + settings.pull * sum(((p - anchor) ** 2).sum() for p, anchor in moved) / len(train)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if schedule is not None:
                    schedule.step()
            losses = data.losses(network, validation)
            kept.offer(network, losses)
            history.append(dict(zip(rows.names, losses.tolist(), strict=True)))
            if progress is not None:
                progress(epoch, history[-1])
            if kept.epochs_without_gain >= settings.patience:
                break
    if kept.missing:
        raise TrainingError(
            f"a finite validation loss of {', '.join(kept.missing)}",
            "none in any epoch",
            "lower the learning rate, and check that validation images have targets of these heads",
        )
    return Trained({name: scale.fold(layers) for name, layers in kept.layers.items()}, kept.losses, history)


def _network(
    rows: Rows, train: npt.NDArray[np.int64], settings: TrainSettings, init: HeadSet | None, scale: Scale
) -> StackedHeads:
    if init is None:
        network = StackedHeads(rows.width, len(rows.names), settings.hidden, settings.shared_layers)
        taught = rows.targets[train[rows.weights[train] > 0]]
        known = (~np.isnan(taught)).sum(axis=(0, 1))
        start = (np.nansum(taught, axis=(0, 1)) / known.clip(min=1)).clip(0.01, 0.99)
        with torch.no_grad():
            network.last_bias.copy_(torch.from_numpy(np.log(start / (1 - start))))
        return network
    known = init.layers()
    if any(len(known[name]) != 3 for name in rows.names):
        raise TrainingError("heads of three layers to start from", "another depth", "train without init")
    return StackedHeads.from_layers([scale.unfold(known[name]) for name in rows.names])


def _optimiser(
    network: StackedHeads, settings: TrainSettings, rows: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    rate, decay = settings.learning_rate, settings.weight_decay
    optimiser: torch.optim.Optimizer
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD(network.parameters(), rate, momentum=settings.momentum, weight_decay=decay)
    else:
        matrices = [parameter for parameter in network.parameters() if parameter.ndim == 3]
        others = [parameter for parameter in network.parameters() if parameter.ndim < 3]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, rate, betas=(0.9, 0.98), fused=True)
    if settings.schedule == "constant":
        return optimiser, None
    steps = settings.epochs * -(-rows // settings.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 2), pct_start=0.15, cycle_momentum=False
    )
    return optimiser, cycle


@dataclass(frozen=True)
class _Data:
    """Rows on the device: standardised iou (N, D), masks (N, M, D); targets (N, M, T), and weights of them."""

    iou: Tensor
    masks: Tensor
    targets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: Rows, scale: Scale, device: torch.device, dtype: torch.dtype) -> _Data:
        iou, masks = scale.apply(rows, device, dtype)
        known = ~np.isnan(rows.targets)
        weights = torch.from_numpy(known * rows.weights[:, None, None]).to(device)
        return cls(iou, masks, torch.from_numpy(np.nan_to_num(rows.targets)).to(device), weights)

    def variance(self, indices: Tensor) -> Tensor:
        """Weighted variance of each head's targets, (T,)."""
        targets, weights = self.targets[indices], self.weights[indices]
        total = weights.sum(dim=(0, 1)).clamp(min=1e-12)
        mean = (weights * targets).sum(dim=(0, 1)) / total
        return ((weights * (targets - mean) ** 2).sum(dim=(0, 1)) / total).clamp(min=1e-6)

    def objective(self, network: StackedHeads, batch: Tensor, loss: str, spread: Tensor) -> Tensor:
        """Sum over heads of the batch's mean loss over `spread` (T,), so that a head of small spread counts
        too.
        """
        logits = network(self.iou[batch], self.masks[batch])
        targets, weights = self.targets[batch], self.weights[batch]
        if loss == "bce":
            error = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        else:
            error = (logits.sigmoid() - targets) ** 2
        means = (weights * error).sum(dim=(0, 1)) / weights.sum(dim=(0, 1)).clamp(min=1e-12)
        return (means / spread).sum()

    @torch.no_grad()
    def losses(self, network: StackedHeads, indices: Tensor) -> Tensor:
        """Weighted squared error of each head on some rows, (T,); NaN for a head without known targets
        there.
        """
        network.eval()
        error = torch.zeros(self.targets.shape[2], dtype=torch.float64, device=self.targets.device)
        total = torch.zeros_like(error)
        for batch in torch.split(indices, 4096):
            values = network(self.iou[batch], self.masks[batch]).sigmoid()
            weights = self.weights[batch]
            error += (weights * (values - self.targets[batch]) ** 2).sum(dim=(0, 1)).double()
            total += weights.sum(dim=(0, 1)).double()
        return (error / total).cpu()


class _Kept:
    """Each head's layers at its lowest validation loss so far."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.layers: dict[str, Layers] = {}
        self.losses: dict[str, float] = dict.fromkeys(names, float("inf"))
        self.epochs_without_gain = 0

    def offer(self, network: StackedHeads, losses: Tensor) -> None:
        """Keep the heads that have improved."""
        gained = False
        for index, (name, loss) in enumerate(zip(self.names, losses.tolist(), strict=True)):
            if loss < self.losses[name]:
                gained = True
                self.losses[name] = loss
                self.layers[name] = network.layers(index)
        self.epochs_without_gain = 0 if gained else self.epochs_without_gain + 1

    @property
    def missing(self) -> list[str]:
        """Heads that never had a finite loss."""
        return [name for name in self.names if name not in self.layers]
