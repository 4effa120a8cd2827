"""Which outlines are moved or cut off, learnt from a project's own labels and from copies of them spoiled on purpose.

Shapes: T labels, C copies and F numbers of each (`usam.objects.outlines`).

    probability = judge_outlines(figures, images)
    doubtful = np.argsort(probability[:, 0])   # the least likely to be right first
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.objects.outlines import COPIES, OUTLINE_NAMES
from usam.training.split import group_folds

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
STATES = ("right", "moved", "cut")
ASSUMED = 0.1
"""Share of labels taken to be moved or cut before one is looked at."""
DAMAGE = {"moved": 0.65, "cut": 0.5}
"""Share of an object that such a label has wrong, 1 - IoU."""
FOLDS, LEAST_LABELS = 5, 20
PENALTY = 0.05
"""scikit-learn's C: few labels and many numbers."""
FURTHEST = 5.0
"""Standard deviations beyond which a number counts as no further off."""


def judge_outlines(figures: Floats, images: Sequence[Hashable], seed: int = 0) -> Float64s:
    """The probability (T, 3) of each of `STATES`, by a model that has not seen the label's image.

    Parameters: figures (T, C, F), NaN where they are not known, those of copies too; the image of each label; seed of
    the folds.

    NaN where a label's own figures are not known, and below 20 labels with copies on 2 images. Raises `TrainingError`
    for figures of another shape.
    """
    count = len(images)
    wanted = (count, len(COPIES), len(OUTLINE_NAMES))
    if figures.shape != wanted:
        raise TrainingError(f"figures {wanted}", f"{figures.shape}")
    probability: Float64s = np.full((count, len(STATES)), np.nan)
    finite = np.asarray(np.isfinite(figures).all(axis=2))
    known, teaching = finite[:, 0], np.asarray(finite.all(axis=1))
    names = np.array([str(image) for image in images])
    if teaching.sum() < LEAST_LABELS or len(set(names[teaching])) < 2:
        return probability
    fold = group_folds(names, FOLDS, seed)
    for number in range(fold.max() + 1):
        held, taught = known & (fold == number), teaching & (fold != number)
        if held.any() and taught.any():
            probability[held] = _taught(figures[taught].astype(np.float64), figures[held, 0].astype(np.float64))
    return probability


def _taught(teaching: Float64s, judged: Float64s) -> Float64s:
    """Probabilities for figures `judged` (J, F), learnt from labels and copies (T, C, F)."""
    from sklearn.linear_model import LogisticRegression

    inputs = teaching.reshape(-1, teaching.shape[2])
    target = np.tile([STATES.index(copy) for copy in COPIES], len(teaching))
    before = np.array([1 - ASSUMED, ASSUMED / 2, ASSUMED / 2]) / np.bincount(target) * len(target)
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-9
    model = LogisticRegression(C=PENALTY, max_iter=1000)
    model.fit(np.clip((inputs - mean) / scale, -FURTHEST, FURTHEST), target, sample_weight=before[target])
    return np.asarray(model.predict_proba(np.clip((judged - mean) / scale, -FURTHEST, FURTHEST)), np.float64)


def expected_damage(probability: Float64s) -> Float64s:
    """The share of an object (T,) that is expected to be wrong, from probabilities (T, 3)."""
    return np.asarray(probability[:, 1:] @ np.array([DAMAGE[state] for state in STATES[1:]]))
