"""Seconds for one image and one prompt: SAM alone, with heads, and with what the entropy baselines need.

The variants are those of UncertainSAM's runtime table (arXiv 2505.05049): +USAM evaluates the heads, +8
prompts decodes eight single points for H_XP, +augmentations encodes and decodes the altered images of H_T.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from usam.checkpoints.registry import find
from usam.heads.head_set import HeadSet
from usam.predictor.entropy import augmentations
from usam.predictor.load import load
from usam.research.evaluation.tables import Runtime

SIDES = (480, 640)


def measure_runtime(name: str, heads: HeadSet | None = None, *, device: str = "cpu", repeats: int = 5) -> Runtime:
    """Median seconds of `repeats` turns, the variants in turn so that a busy machine slows all alike.

    Without `heads`, a head set of the published shape with random weights stands in: it costs the same.
    Raises `CheckpointError` where the model is not at hand.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*SIDES, 3), np.uint8)
    altered = list(augmentations(image, rng).values())
    points = rng.uniform(20, 400, (8, 1, 2)).astype(np.float32)
    labels = np.ones((8, 1), np.int32)
    width = find(name).width
    if heads is None or heads.width != width or not heads.fits(name):
        heads = _random_heads(name, width)
    plain, scored = load(name, device, heads=None), load(name, device, heads=heads)

    def decode(predictor: Any, source: Any, count: int = 1) -> None:
        predictor.set_image(source)
        predictor.predict(points[:1], labels[:1])
        if count > 1:
            predictor.predict(points[:count], labels[:count])

    def with_altered() -> None:
        for source in (image, *altered):
            decode(plain, source)

    variants: dict[str, Callable[[], None]] = {
        "SAM": lambda: decode(plain, image),
        "+USAM": lambda: decode(scored, image),
        "+8 prompts": lambda: decode(plain, image, 8),
        f"+{len(altered)} augmentations": with_altered,
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in range(repeats + 1):
        for variant, run in variants.items():
            start = time.perf_counter()
            run()
            _wait(device)
            if turn:
                seconds[variant].append(time.perf_counter() - start)
    return Runtime(name, {variant: median(times) for variant, times in seconds.items()}, device)


def _random_heads(name: str, width: int) -> HeadSet:
    rng = np.random.default_rng(0)
    sizes = [2 * width, 512, 512, 1]
    layers = {
        f"iou_{number}": [(rng.normal(size=(b, a)) / a, np.zeros(b)) for a, b in pairwise(sizes)] for number in range(9)
    }
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint=name)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
