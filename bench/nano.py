"""The nano family: quality on images no weight has seen, and speed against SAM 2.1 Tiny in the same run.

Quality needs the labelled sets (USAM_SHARED names the folder that holds `data`); without them only speed is
measured. SAM 2.1 Tiny runs with random weights: its speed does not depend on them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.rows import Row

THREADS = 2
ROUNDS = 5
TARGETS = {
    "click, best of three": 0.64,
    "click, own pick": 0.58,
    "points, best of three": 0.72,
    "box, best of three": 0.76,
    "click, Pearson of own estimate": 0.76,
}
"""Of COCO objects over 1 % of their image, for nano-m and what is larger."""
NAMES = ("nano-s", "nano-m", "nano-l")


def run() -> list[Row]:
    """Every figure of the family."""
    torch.set_num_threads(THREADS)
    rows = speed()
    shared = os.environ.get("USAM_SHARED", "")
    return rows + quality(Path(shared) / "data") if shared else rows


def speed() -> list[Row]:
    """Encode one image and decode one click: seconds, and the share of SAM 2.1 Tiny's time."""
    from usam.predictor.load import load

    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    point, label = np.array([[320.0, 240.0]]), np.array([1])
    predictors = {**{name: load(name, heads=None) for name in NAMES}, "tiny": untrained_tiny()}

    def once(name: str) -> None:
        predictors[name].set_image(image)
        predictors[name].predict(point, label)

    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for index in range(ROUNDS + 1):
        for name in predictors:
            took = timed(lambda name=name: once(name))
            if index:
                seconds[name].append(took)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    note = f"medians of {ROUNDS}, taken in turn, {THREADS} threads, 640 x 480 image"
    rows = [Row("encode and decode one click, sam2.1_hiera_tiny", middle["tiny"], "s", note=f"{note}, random weights")]
    for name in NAMES:
        rows.append(Row(f"encode and decode one click, {name}", middle[name], "s", note=note))
        share = middle[name] / middle["tiny"]
        rows.append(
            Row(f"encode and decode one click, {name}", share, "ratio", "sam2.1_hiera_tiny", "<= 0.15", note=note)
        )
    return rows


def untrained_tiny() -> object:
    """SAM 2.1 Tiny with random weights, in SAM 2's own predictor."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from usam.checkpoints.registry import build_model

    return SAM2ImagePredictor(build_model("sam2.1_hiera_tiny", weights=False))


def timed(action: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def quality(data: Path) -> list[Row]:
    """Mean IoUs and correlations of all sizes on every evaluation set, with 95 % intervals in the note."""
    from usam.checkpoints.nano import load_nano
    from usam.checkpoints.registry import checkpoint_path
    from usam.cli.nano import evaluation_sets
    from usam.research.nano.figures import figures, measure

    rows = []
    for name in NAMES:
        model = load_nano(name, checkpoint_path(name))
        for dataset, records in evaluation_sets(data).items():
            for figure in figures(measure(model, records)):
                wanted = TARGETS.get(figure.name) if name != NAMES[0] and dataset == "coco" else None
                rows.append(
                    Row(
                        f"{name}, {dataset}, {figure.name}",
                        figure.value,
                        "r" if "Pearson" in figure.name else "IoU",
                        target=f">= {wanted:.2f}" if wanted else "",
                        note=f"[{figure.low:.3f}, {figure.high:.3f}], {figure.objects} objects over 1 %, "
                        f"{figure.images} images",
                    )
                )
    return rows
