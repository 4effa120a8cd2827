"""Labels worth a second look: what people marked that a model which has not learnt from it would have marked otherwise.

Shapes: N examples (`usam.objects.project_heads.Examples`), C classes.

Each image is judged by heads that learnt from other images alone. Three things are doubted, on one scale, the share of
an object that is expected to be wrong, 0..1:

    class     the probability that the label is another one than was given
    outline   how much of the object a moved or cut off outline would get wrong, by the probability that this is one
              (`usam.objects.outline_doubt`); without figures of outlines, how much less the model's own masks agree
              with it than with others of its kind
    missing   the probability that an object which nobody marked is wanted

    doubts = review_labels(examples, ("cat", "dog"))
    worst = doubts[: len(doubts) // 20]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from usam.errors import TrainingError
from usam.masks import box_iou
from usam.objects.linear import FOLDS, Float64s, Floats, Ints, fit_linear
from usam.objects.outline_doubt import STATES, expected_damage, judge_outlines
from usam.objects.project_heads import (
    COPY_IOU,
    UNWANTED_IOU,
    WANTED_IOU,
    Examples,
    boxes_of,
    classifier_inputs,
    selector_inputs,
)
from usam.predictor.object_features import PLACE_NUMBERS
from usam.training.split import group_folds

Reason = Literal["class", "outline", "missing"]
LEAST_LABELS, LEAST_IMAGES = 20, 5
"""Marked objects, and images, below which nothing is doubted: too little to tell what is usual."""
UNMARKED_IOU = 0.1
"""Overlap with a person's region below which a candidate is of an object that nobody marked."""
SURE = 0.5
"""Probability of being wanted from which on an unmarked object is worth a look."""


@dataclass(frozen=True)
class Doubt:
    """One label to look at again. `row` of the examples; `damage` 0..1, higher = look first; `box` x0, y0, x1, y1 as
    shares of the image; `given` the label that was given, empty for none; `likelier` the class that the model would
    have given, empty where it does not say; `figures` what the damage was made of, each 0..1."""

    row: int
    reason: Reason
    damage: float
    box: tuple[float, float, float, float]
    given: str
    likelier: str
    figures: dict[str, float]


def review_labels(
    examples: Examples,
    classes: Sequence[str],
    *,
    agreement: Floats | None = None,
    predicted: Floats | None = None,
    outlines: Floats | None = None,
    seed: int = 0,
) -> list[Doubt]:
    """All doubts about the labels of finished images, the largest expected damage first.

    Parameters:
        examples: candidates and people's regions of finished images.
        classes: the configuration's labels.
        agreement: (N,) best IoU of the model's masks for prompts from a region with that region, NaN where not known.
        predicted: (N,) what heads say that IoU is, NaN where not known.
        outlines: (T, C, F) figures of people's T regions and of their copies (`usam.objects.outlines`), in the order of
            their rows, NaN where not known.

    A row can be doubted for its class and for its outline. Empty below 20 regions on 5 images. Raises `TrainingError`
    for columns of another size.
    """
    count = len(examples.overlap)
    unknown: Float64s = np.full(count, np.nan)
    agreement = unknown if agreement is None else np.asarray(agreement, np.float64)
    predicted = unknown if predicted is None else np.asarray(predicted, np.float64)
    if agreement.shape != (count,) or predicted.shape != (count,):
        raise TrainingError(f"agreement and predicted ({count},)", f"{agreement.shape} and {predicted.shape}")
    marked = np.flatnonzero(~np.asarray(examples.proposed))
    if len(marked) < LEAST_LABELS or len({str(examples.images[row]) for row in marked}) < LEAST_IMAGES:
        return []
    likeliest, probability = class_probabilities(examples, classes, seed)
    doubts = _classes(examples, classes, marked, likeliest, probability)
    doubts += _outlines(examples, marked, agreement, predicted, outlines, seed)
    for row, wanted in unmarked_objects(examples, seed):
        name = classes[likeliest[row]] if likeliest[row] >= 0 and len(classes) > 1 else ""
        doubts.append(_doubt(examples, row, "missing", wanted, {"wanted": wanted}, name))
    return sorted(doubts, key=lambda doubt: (-doubt.damage, doubt.row, doubt.reason))


def class_probabilities(examples: Examples, classes: Sequence[str], seed: int = 0) -> tuple[Ints, Float64s]:
    """The class (N,) that heads which have not seen its image would give each object, -1 where they cannot, and all
    classes' probabilities (N, C), NaN there and for a class that no other image shows.

    People's regions teach alone: candidates on them would say a wrong label once more each.
    """
    index = {name: number for number, name in enumerate(classes)}
    target = np.array([index.get(given[0], -1) if len(given) == 1 else -1 for given in examples.labels], np.int64)
    probability: Float64s = np.full((len(target), len(classes)), np.nan)
    inputs = classifier_inputs(examples.features, examples.shapes)
    teaching = (target >= 0) & ~np.asarray(examples.proposed)
    images = np.asarray([str(image) for image in examples.images])
    if len(set(target[teaching].tolist())) < 2 or len(set(images[teaching])) < LEAST_IMAGES:
        return np.full(len(target), -1, np.int64), probability
    tail = inputs.shape[1] - np.shape(examples.features)[1]
    fold = group_folds(images, FOLDS, seed)
    for number in range(fold.max() + 1):
        others = np.flatnonzero(fold != number)
        rows = np.flatnonzero(teaching[others])
        if len(rows):
            goal, names = target[others[rows]], images[others].tolist()
            head, _ = fit_linear(inputs[others], goal, names, len(classes), rows=rows, tail=tail, seed=seed)
            probability[fold == number] = np.where(
                head.examples > 0, head.probabilities(inputs[fold == number]), np.nan
            )
    known = np.isfinite(probability).any(1)
    likeliest = np.where(known, np.nan_to_num(probability).argmax(1), -1)
    return likeliest.astype(np.int64), probability


def _classes(
    examples: Examples, classes: Sequence[str], marked: Ints, likeliest: Ints, probability: Float64s
) -> list[Doubt]:
    doubts = []
    index = {name: number for number, name in enumerate(classes)}
    for row in marked.tolist():
        given = examples.labels[row]
        if likeliest[row] < 0 or len(given) != 1 or given[0] not in index:
            continue
        right, best = float(probability[row, index[given[0]]]), int(likeliest[row])
        if classes[best] != given[0] and not np.isnan(right):  # of a class new to the heads they know nothing
            figures = {"given": right, "likelier": float(probability[row, best])}
            doubts.append(_doubt(examples, row, "class", 1.0 - right, figures, classes[best]))
    return doubts


def _outlines(
    examples: Examples, marked: Ints, agreement: Floats, predicted: Floats, outlines: Floats | None, seed: int
) -> list[Doubt]:
    state: Float64s = np.full((len(marked), len(STATES)), np.nan)
    if outlines is not None:
        state = judge_outlines(outlines, [examples.images[row] for row in marked], seed)
    damage = expected_damage(state)
    usual = float(np.nanmean(state[:, 0])) if np.isfinite(damage).any() else 1.0
    expected, agreed = expected_agreement(examples, marked, agreement, predicted, seed)
    doubts = []
    for place, row in enumerate(marked.tolist()):
        if np.isfinite(damage[place]):
            if state[place, 0] < usual:
                figures = {name: float(value) for name, value in zip(STATES, state[place], strict=True)}
                doubts.append(_doubt(examples, row, "outline", float(damage[place]), figures))
        elif expected[place] > agreed[place]:
            figures = {"agreement": float(agreed[place]), "expected": float(expected[place])}
            doubts.append(_doubt(examples, row, "outline", float(expected[place] - agreed[place]), figures))
    return doubts


def expected_agreement(
    examples: Examples, marked: Ints, agreement: Floats, predicted: Floats, seed: int = 0
) -> tuple[Float64s, Float64s]:
    """Of T regions: the agreement (T,) that is usual for such an object, learnt from other images, and its own (T,).

    Agreement is the IoU with that mask of the model which comes nearest: a candidate, or an answer to prompts from
    the region. NaN where nothing is known.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = {str(examples.regions[row]): place for place, row in enumerate(marked.tolist())}
    nearest: Float64s = np.zeros(len(marked))
    score: Float64s = np.full(len(marked), np.nan)
    for row in np.flatnonzero(np.asarray(examples.proposed)):
        place = rows.get(str(examples.regions[row]), -1)
        if place >= 0 and examples.overlap[row] > nearest[place]:
            nearest[place] = examples.overlap[row]
            score[place] = examples.shapes[row][-1]
    own = np.fmax(nearest, np.asarray(agreement, np.float64)[marked])
    places = np.asarray(examples.shapes, np.float64)[marked][:, :PLACE_NUMBERS]
    told = np.column_stack([np.asarray(predicted, np.float64)[marked], score])
    inputs = np.column_stack([places, np.where(np.isfinite(told), told, -1.0)])
    fold = group_folds(np.asarray([str(examples.images[row]) for row in marked]), FOLDS, seed)
    expected: Float64s = np.full(len(marked), np.nan)
    for number in range(fold.max() + 1):
        taught = fold != number
        if taught.any():
            model = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=6, min_samples_leaf=10, random_state=seed)
            model.fit(inputs[taught], own[taught])
            expected[~taught] = model.predict(inputs[~taught])
    return np.clip(expected, 0.0, 1.0), own


def unmarked_objects(examples: Examples, seed: int = 0) -> list[tuple[int, float]]:
    """Candidates that no region overlaps and that are likelier wanted than not, as (row, probability), the likeliest
    first and one of several copies; by heads that have not seen the image."""
    overlap = np.asarray(examples.overlap, np.float64)
    taught = np.flatnonzero((overlap >= WANTED_IOU) | (overlap < UNWANTED_IOU))
    wanted = overlap[taught] >= WANTED_IOU
    if wanted.all() or not wanted.any():
        return []
    inputs = selector_inputs(examples.features, examples.shapes)
    tail = inputs.shape[1] - np.shape(examples.features)[1]
    _, left_out = fit_linear(inputs, wanted.astype(np.int64), examples.images, 2, rows=taught, tail=tail, seed=seed)
    nobodys = np.asarray(examples.proposed)[taught] & (overlap[taught] < UNMARKED_IOU)
    found: list[tuple[int, float]] = []
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for place in np.argsort(-left_out[:, 1], kind="stable"):
        probability, row = float(left_out[place, 1]), int(taught[place])
        if not nobodys[place] or not probability >= SURE:
            continue
        others = boxes.setdefault(str(examples.images[row]), [])
        box = box_of_shape(examples.shapes[row])
        if all(box_iou([box], [other])[0, 0] < COPY_IOU for other in others):
            others.append(box)
            found.append((row, probability))
    return found


def box_of_shape(shape: Floats) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 as shares of the image, of an object whose shape (S,) `describe_shapes` told."""
    left, top, right, bottom = boxes_of(np.asarray(shape)[None])[0].tolist()
    return left, top, right, bottom


def _doubt(
    examples: Examples, row: int, reason: Reason, damage: float, figures: dict[str, float], likelier: str = ""
) -> Doubt:
    given = examples.labels[row]
    name = given[0] if given and reason != "missing" else ""
    box = box_of_shape(examples.shapes[row])
    return Doubt(row, reason, min(max(damage, 0.0), 1.0), box, name, likelier, figures)
