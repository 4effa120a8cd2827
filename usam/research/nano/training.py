"""Training of a nano model against the clock: a budget of minutes (or of steps), resumable at any moment.

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from usam.checkpoints.nano import (
    SIZES,
    NanoSAM,
    NanoSize,
    build_size,
    save_nano,
)
from usam.errors import CheckpointError, TrainingError
from usam.files import replace_text, replacing
from usam.research.nano.samples import Batch, PromptCounts, draw_batch, picture_shares
from usam.research.nano.stored_images import StoredImage
from usam.research.nano.trainer import NanoSettings, Trainer, normalise


class _Batches(IterableDataset[Batch]):
    def __init__(self, store: Sequence[StoredImage], side: int, settings: NanoSettings, seed: int) -> None:
        self.store, self.side, self.settings, self.seed = store, side, settings, seed

    def __iter__(self) -> Iterator[Batch]:
        import cv2

        cv2.setNumThreads(1)
        rng = np.random.default_rng(self.seed)
        shares = picture_shares(self.store)
        while True:
            s = self.settings
            yield draw_batch(self.store, s.batch, self.side, s.prompts, rng, s.synthetic, s.pasted, shares, s.joined)


def share_progress(seconds: float) -> float:
    """The seconds of the first worker's clock, so that all take the same rate and stop together."""
    if not dist.is_initialized():
        return seconds
    shared = torch.tensor([seconds], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


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
    with replacing(path) as partial:
        torch.save(state, partial)


def train_nano(
    name: str,
    store: Sequence[StoredImage],
    out: Path,
    settings: NanoSettings,
    start: dict[str, Tensor] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Train `name` for `settings.minutes` or `settings.steps` and write `out`/<name>.safetensors; returns its path.

    These are the averaged weights.

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
    model = begin_model(size, start, store)
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

    def used() -> float:
        return trainer.steps / settings.steps if settings.steps else share_progress(clock.seconds) / budget

    while (progress := used()) < 1.0:
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


def begin_model(size: NanoSize, start: dict[str, Tensor] | None, store: Sequence[StoredImage]) -> NanoSAM:
    """A model to train: from ImageNet, or with the weights of `start`.

    Of a `start` with another trunk everything behind the neck is taken. The trunk then begins as ImageNet left it,
    and the neck is fitted to give what the neck of `start` gives (see `fit_neck`).
    """
    if start is None:
        model = build_size(size, pretrained_trunk=True)
        scale_neck(model, store)
        return model
    theirs = next((s for s in SIZES.values() if _fits(s, start, of="image_encoder.")), None)
    same = theirs is None or theirs.trunk == size.trunk
    model = build_size(size, pretrained_trunk=not same)
    ours = model.state_dict()
    taken = {k: v for k, v in start.items() if (same or not k.startswith("image_encoder.")) and k in ours}
    model.load_state_dict({**ours, **{k: v for k, v in taken.items() if ours[k].shape == v.shape}})
    if theirs is not None and not same:
        teacher = build_size(replace(theirs, image_size=size.image_size))
        teacher.load_state_dict(start)
        fit_neck(model, teacher, store)
    return model


def _fits(size: NanoSize, weights: dict[str, Tensor], of: str) -> bool:
    ours = {k: v.shape for k, v in build_size(size).state_dict().items() if k.startswith(of)}
    return ours == {k: v.shape for k, v in weights.items() if k.startswith(of)}


@torch.no_grad()
def fit_neck(model: NanoSAM, teacher: NanoSAM, store: Sequence[StoredImage], count: int = 48, cells: int = 400) -> None:
    """Set the lateral convolutions of `model` so that they give what those of `teacher` give, in place.

    By ridge regression over `cells` places of each level of `count` training pictures: the decoder then reads from
    its new trunk, from the first step on, what it has learnt to read from the old one, as far as that is linear.
    """
    rng = np.random.default_rng(0)
    read: list[list[Tensor]] = [[] for _ in model.image_encoder.neck.convs]
    wanted: list[list[Tensor]] = [[] for _ in read]
    for _ in range(max(1, count // 8)):
        images = normalise(draw_batch(store, 8, model.image_size, PromptCounts(1, 0, 0), rng).images)
        ours, theirs = model.image_encoder.trunk(images)[::-1], teacher.image_encoder.trunk(images)[::-1]
        for level, conv in enumerate(teacher.image_encoder.neck.convs):
            source, target = (part.permute(0, 2, 3, 1).flatten(0, 2) for part in (ours[level], conv(theirs[level])))
            rows = torch.from_numpy(rng.permutation(len(source))[: 8 * cells])
            read[level].append(source[rows])
            wanted[level].append(target[rows])
    for conv, sources, targets in zip(model.image_encoder.neck.convs, read, wanted, strict=True):
        x, y = torch.cat(sources).double(), torch.cat(targets).double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        centred = x - mean_x
        gram = centred.T @ centred
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, centred.T @ (y - mean_y)).T
        conv.conv.weight.copy_(weight[:, :, None, None].float())
        conv.conv.bias.copy_((mean_y - weight @ mean_x).float())


@torch.no_grad()
def scale_neck(model: NanoSAM, store: Sequence[StoredImage], count: int = 8) -> None:
    """Divide each lateral convolution's weights by the size of what it reads, so that all levels start alike."""
    rng = np.random.default_rng(0)
    batch = draw_batch(store, count, model.image_size, PromptCounts(1, 0, 0), rng)
    features = model.image_encoder.trunk(normalise(batch.images))
    for conv, feature in zip(model.image_encoder.neck.convs, features[::-1], strict=True):
        conv.conv.weight /= feature.pow(2).mean().sqrt().clamp(min=1e-3)
        nn.init.zeros_(conv.conv.bias)
