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
from usam.objects.outline_copies import COPIES
from usam.objects.outlines import OUTLINE_NAMES
from usam.training.split import group_folds

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
STATES = ("right", "moved", "cut")
ASSUMED = 0.1
"""Share of labels taken to be moved or cut before one is looked at."""
BEFORE = np.array([1 - ASSUMED, ASSUMED / 2, ASSUMED / 2])
DAMAGE = {"moved": 0.65, "cut": 0.5}
"""Share of an object that such a label has wrong, 1 - IoU."""
FOLDS, LEAST_LABELS = 5, 20
MOST_TAUGHT = 1500
"""Labels that teach at most, drawn from all."""
TREES, LEAST_LEAF, TRIED = 200, 8, 0.3
"""scikit-learn's n_estimators, min_samples_leaf and max_features: few labels and many numbers."""
TAUGHT = np.array([0.5, 0.25, 0.25])
"""Shares of `STATES` in what trees are taught: by the few that `BEFORE` says, they would keep too little of the others
apart, and call too much of them wrong on images they have not seen."""
WEIGHT, MOST_SHARE, ROUNDS = 10.0, 0.1, 50
"""As how many labels `BEFORE` counts when a project's own shares are estimated; the largest that is believed, as what
nothing tells apart may have any share; and in how many steps they are estimated."""


def judge_outlines(figures: Floats, images: Sequence[Hashable], seed: int = 0) -> Float64s:
    """The probability (T, 3) of each of `STATES`, by a model that has not seen the label's image, if moved and cut
    labels are as frequent in this project as they seem.

    Parameters: figures (T, C, F), NaN where they are not known, those of copies too; the image of each label; seed of
    the folds.

    NaN where a label's own figures are not known, and below 20 labels with copies on 2 images. Raises `TrainingError`
    for figures of another shape.
    """
    probability = states_left_out(figures, images, seed)
    judged = np.isfinite(probability[:, 0])
    if judged.any():
        probability[judged] = as_frequent(probability[judged])
    return probability


def states_left_out(figures: Floats, images: Sequence[Hashable], seed: int = 0) -> Float64s:
    """As `judge_outlines`, but if shares were `BEFORE`: what other images teach alone."""
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
    fold, rng = group_folds(names, FOLDS, seed), np.random.default_rng(seed)
    for number in range(fold.max() + 1):
        held, taught = known & (fold == number), np.flatnonzero(teaching & (fold != number))
        if held.any() and len(taught):
            taught = rng.permutation(taught)[:MOST_TAUGHT]
            probability[held] = _taught(figures[taught], figures[held, 0], seed)
    return probability


def _taught(teaching: Floats, judged: Floats, seed: int) -> Float64s:
    """Probabilities for figures `judged` (J, F), learnt from labels and copies (T, C, F), if `BEFORE` held."""
    from sklearn.ensemble import ExtraTreesClassifier

    target = np.tile([STATES.index(copy) for copy in COPIES], len(teaching))
    weight = TAUGHT / np.bincount(target) * len(target)
    model = ExtraTreesClassifier(TREES, min_samples_leaf=LEAST_LEAF, max_features=TRIED, random_state=seed)
    model.fit(teaching.reshape(-1, teaching.shape[2]), target, sample_weight=weight[target])
    found = model.predict_proba(judged) * (BEFORE / TAUGHT)
    return np.asarray(found / found.sum(1, keepdims=True), np.float64)


def as_frequent(probability: Float64s) -> Float64s:
    """Probabilities (T, 3) as they are if moved and cut labels are as frequent as they seem to be in this project,
    rather than as `BEFORE` says.

    Where none seems moved, what looks moved is a label of the unusual kind, and stands behind those that look cut.
    """
    share, found = BEFORE, probability
    for _ in range(ROUNDS):
        found = probability * (share / BEFORE)
        found /= found.sum(1, keepdims=True)
        share = (found.sum(0) + WEIGHT * BEFORE) / (len(found) + WEIGHT)
        share[1:] = np.minimum(share[1:], MOST_SHARE)
        share[0] = 1 - share[1:].sum()
    return found


def expected_damage(probability: Float64s) -> Float64s:
    """The share of an object (T,) that is expected to be wrong, from probabilities (T, 3)."""
    return np.asarray(probability[:, 1:] @ np.array([DAMAGE[state] for state in STATES[1:]]))
