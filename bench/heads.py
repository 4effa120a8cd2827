"""Training all nine heads at once against nine separate runs of a plain loop, at equal validation loss.

Both learn 100,000 rows (300,000 inputs) of made tokens, D = 256, from a hidden function of 24 variables with noise.
The plain loop is one 512-512-512-1 network a head, batches of 256 inputs, Adam at 1e-3, two passes; float32. Ours is
`fit_heads` with the settings for large tables, cut to the few passes after which no head is worse than its plain run.
Times are processor seconds of one thread, which a busy machine changes least; ours is run before and after.
"""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.rows import Row
from usam.heads.head_set import PUBLISHED_HEADS
from usam.training import PRESETS, fit_heads, split_groups
from usam.training.network import Rows

ROWS, HELD_OUT, WIDTH = 100_000, 10_000, 256
PLAIN_PASSES, OUR_PASSES = 2, 3
Floats = npt.NDArray[np.float32]


def made_rows(count: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], dict[str, Floats]]:
    """Tokens (N, 256), (N, 4, 256) and the targets of the nine heads, from one hidden state a row."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(size=(count, 24)).astype(np.float32)

    def mixed(width: int, out: int) -> Floats:
        first, second = draw.normal(size=(24, width)) / 24**0.5, draw.normal(size=(width, out)) / width**0.5
        return np.asarray(np.tanh(1.5 * hidden @ first.astype(np.float32)) @ second.astype(np.float32))

    def noisy(values: Floats, noise: float) -> Floats:
        return values + noise * draw.normal(size=values.shape).astype(np.float32)

    iou_token = noisy(mixed(96, WIDTH), 0.3).astype(np.float16)
    mask_tokens = np.stack([noisy(mixed(96, WIDTH), 0.3).astype(np.float16) for _ in range(4)], axis=1)
    base = mixed(64, 12)
    targets = {
        name: np.asarray(
            1 / (1 + np.exp(-noisy(3.3 * base @ (draw.normal(size=(12, 3)) / 12**0.5).astype(np.float32), 1.3))),
            np.float32,
        )
        for name in PUBLISHED_HEADS
    }
    return iou_token, mask_tokens, targets


def plain_run(
    rows: Rows, head: int, train: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Processor seconds of training, and squared error on the held-out rows, of one head in a loop of its own."""

    def inputs(indices: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        iou = np.repeat(rows.iou[indices][:, None], 3, axis=1)
        tokens = np.concatenate([iou, rows.masks[indices]], axis=2).reshape(-1, 2 * WIDTH).astype(np.float32)
        return torch.from_numpy(tokens), torch.from_numpy(rows.targets[indices, :, head].reshape(-1, 1))

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid()
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    tokens, truth = inputs(train)
    start = time.process_time()
    for _ in range(PLAIN_PASSES):
        for batch in torch.split(torch.randperm(len(tokens)), 256):
            optimiser.zero_grad()
            nn.functional.mse_loss(network(tokens[batch]), truth[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    seconds = time.process_time() - start
    tokens, truth = inputs(held_out)
    with torch.no_grad():
        return seconds, float(nn.functional.mse_loss(network(tokens), truth))


def run() -> list[Row]:
    """The ratio of times, and what stands behind it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run()
    finally:
        torch.set_num_threads(threads)


def _run() -> list[Row]:
    iou_token, mask_tokens, targets = made_rows(ROWS + HELD_OUT + 10)
    groups = np.arange(len(iou_token))
    held_out = HELD_OUT / len(iou_token)
    settings = PRESETS["large"].replace(
        epochs=OUR_PASSES, learning_rate=3e-3, validation=held_out, test=10 / len(iou_token), device="cpu"
    )
    split = split_groups(groups, held_out, 10 / len(iou_token), 0)
    rows = Rows.of(iou_token, mask_tokens, targets, "aligned")

    def ours() -> tuple[float, dict[str, float]]:
        start = time.process_time()
        result = fit_heads(iou_token, mask_tokens, targets, groups, settings=settings)
        seconds = time.process_time() - start
        return seconds, {name: min(epoch[name] for epoch in result.history) for name in PUBLISHED_HEADS}

    before, losses = ours()
    plain = [plain_run(rows, head, split.train, split.validation) for head in range(len(PUBLISHED_HEADS))]
    after, _ = ours()
    together, apart = (before + after) / 2, sum(seconds for seconds, _ in plain)
    worst = max(losses[name] / loss for name, (_, loss) in zip(PUBLISHED_HEADS, plain, strict=True))
    note = (
        f"{OUR_PASSES} passes, processor seconds of one thread of {os.cpu_count()}; validation loss of ours over "
        f"plain's {np.mean([losses[n] / v for n, (_, v) in zip(PUBLISHED_HEADS, plain, strict=True)]):.3f}, "
        f"worst head {worst:.3f}"
    )
    return [
        Row("nine heads on 100,000 rows, all at once", together, "s", note=note),
        Row("nine heads on 100,000 rows, nine plain loops", apart, "s", note=f"Adam, {PLAIN_PASSES} passes each"),
        Row(
            "training nine heads at once / nine plain loops, equal loss",
            together / apart,
            "ratio",
            "nine plain loops",
            "<= 0.15",
            note=note,
        ),
        Row("worst head's validation loss, ours / plain", worst, "ratio", "plain loop", "<= 1"),
    ]
