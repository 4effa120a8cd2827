"""Masks of images whose predicted IoUs are as a good head's: about right, and wrong together on some images."""

from __future__ import annotations

import numpy as np

from usam.pseudo_labels.calibration import Candidates


def risky_masks(
    rng: np.random.Generator, images: int, *, labelled: bool = True, start: int = 0, worse_by: float = 0.0
) -> Candidates:
    """Candidates of `images` images, four masks each in the mean. True and predicted IoU share an image's difficulty,
    and the prediction's error has a part of its own for each image; `worse_by` is taken off every true IoU."""
    counts = 1 + rng.poisson(3, images)
    rows = np.repeat(np.arange(images), counts)
    total = len(rows)
    true = 1 / (1 + np.exp(-(1.9 + 0.8 * rng.normal(0, 1, images)[rows] + rng.normal(0, 1, total))))
    error = 0.05 * rng.normal(0, 1, images)[rows] + rng.normal(0, 0.07, total)
    return Candidates(
        names=[str(number) for number in range(total)],
        images=(rows + start).tolist(),
        predicted_iou=np.clip(true + error, 0, 1),
        task_gap=rng.normal(0.02, 0.03, total),
        true_iou=np.clip(true - worse_by, 0, 1) if labelled else None,
        audited=range(start, start + images),
    )
