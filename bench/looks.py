"""What knowing the project costs at scoring: maps of looks, features and what is shown by them, beside all of it.

Photographs of scikit-image, nano-m, the default grid, one thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from bench.rows import Row

ROUNDS = 7


def run() -> list[Row]:
    """The share of the time of encoding and proposing."""
    import torch
    from skimage import data

    from backend.inference.candidates import propose
    from backend.inference.model import LoadedModel
    from backend.inference.scheduler import finish
    from backend.inference.shown import choose_shown
    from backend.metrics.service import Metrics
    from backend.settings import Settings
    from usam.heads.bundled import resolve_heads
    from usam.objects.project_heads import Examples, fit_project
    from usam.predictor.looks_trunk import looks_trunk

    settings = Settings(model="nano-m", threads=1, data_dir=Path("unused"))
    model = LoadedModel.load("nano-m", settings, Metrics(), resolve_heads("nano-m", "auto"))
    images = [np.asarray(getattr(data, name)()) for name in ("coffee", "chelsea", "astronaut", "rocket")]
    found = finish(propose(model, model.encode(images[0]), (), None, "predicted-iou", settings))
    rng = np.random.default_rng(0)
    rows = rng.integers(len(found.objects), size=800)
    overlap = rng.integers(2, size=800).astype(float)
    labels = [("a",) if good else () for good in overlap]
    names = [f"{k // 40}" for k in range(800)]
    examples = Examples(
        found.looks.features[rows], found.looks.shapes[rows], names, names, labels, overlap, np.ones(800, bool)
    )
    learnt = fit_project(examples, ("a", "b"), features_version=found.looks.version, checkpoint="nano-m")
    trunk, stage, shares = looks_trunk("cpu"), torch.zeros(1, 40, 56, 56), []
    for _ in range(ROUNDS):
        for image in images:
            started = time.perf_counter()
            embedding = model.encode(image)
            found = finish(propose(model, embedding, (), None, "predicted-iou", settings))
            whole = time.perf_counter() - started
            started = time.perf_counter()
            trunk.of_stages((stage, stage))
            looks = model.looks(embedding, found.objects.logits, found.objects.samscore)
            choose_shown(found.layout, looks, found.objects.iou, settings, learnt)
            shares.append((time.perf_counter() - started) / whole)
    low, high = np.percentile(shares, [5, 95])
    note = f"5th to 95th percentile {low:.3f} to {high:.3f}, {len(shares)} rounds"
    figure = "features and the project's heads at scoring / encoding and proposing, nano-m"
    return [Row(figure, float(np.median(shares)), "ratio", "", "<= 0.03", note=note)]
