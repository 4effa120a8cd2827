"""A linear classifier that starts from one example and does not boast: shrunken, and calibrated on images left out.

Shapes: K objects, N examples among them, F features, C classes.

Features are centred and scaled by all objects that are known, wanted or not, then brought to unit length. With few
examples a class is its prototype, the mean of its examples (nearest-prototype classification, as in Snell et al., NIPS
2017, arXiv 1703.05175); with more it is a logistic regression under an L2 penalty whose strength is chosen on images
left out. Either way a temperature, fitted on images left out, makes probabilities mean what they say (Guo et al., ICML
2017, arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.training.split import group_folds

Floats = npt.NDArray[np.floating[Any]]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["constant", "prototypes", "logistic"]

FEW = 5
"""Examples of its second largest class from which on a regression is tried."""
FOLDS = 5
PENALTIES = (0.3, 3.0)
"""Values of scikit-learn's C (small = shrunken) to choose from."""
MOST_OF_A_CLASS = 3000
"""Examples of one class that are used; more are thinned out, and weigh more in exchange."""
LENGTH = 5.5
"""What the regression takes for unit length: its penalties are meant for that."""
TAIL_SCALE = 0.1
"""What a standard deviation of a tail feature counts, beside the others' unit length."""
PROTOTYPE_SHARPNESS = 10.0
"""Logits per unit of cosine before a temperature is fitted."""
TEMPERATURES = np.geomspace(0.1, 20.0, 40)
GIVEN_BACK = (0.0, 0.25, 0.5, 1.0)
"""Shares of the classes' log frequency to choose from when probabilities are calibrated."""
PRIOR_IMAGES = 4.0
"""So many images' worth of belief in a temperature of `PRIOR_TEMPERATURE`: few images cannot prove certainty."""
PRIOR_TEMPERATURE = 1.5


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A classifier over C classes. `mean`, `scale` (F,), `weights` (C, F), `bias` (C,).

    `examples` (C,) says how many taught each class; `log_loss` is that of images left out, NaN where none could be;
    the last `tail` features are numbers of other kinds, which are scaled but not brought to unit length.
    """

    kind: Kind
    mean: Float32s
    scale: Float32s
    weights: Float32s
    bias: Float32s
    temperature: float
    examples: Ints
    log_loss: float
    tail: int = 0

    def logits(self, features: Floats) -> Float64s:
        """(K, F) -> (K, C) before the temperature. Raises `TrainingError` for another width."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise TrainingError(
                f"features (K, {len(self.mean)})", f"shape {features.shape}", "pool them as the examples were"
            )
        return np.asarray(
            _unit(features, self.mean, self.scale, self.tail) @ self.weights.T.astype(np.float64) + self.bias
        )

    def probabilities(self, features: Floats) -> Float64s:
        """(K, F) -> (K, C), each in [0, 1], adding up to 1."""
        return softmax(self.logits(features) / self.temperature)


def fit_linear(
    features: Floats,
    target: Ints,
    images: Sequence[object],
    classes: int,
    *,
    rows: Sequence[int] | Ints | None = None,
    weights: Floats | None = None,
    balance: float = 0.5,
    give_back: bool = True,
    tail: int = 0,
    seed: int = 0,
) -> tuple[LinearHead, Float64s]:
    """Teach a head.

    Parameters:
        features: (K, F) of all objects that are known, and the `images` (K,) they are from: images are left out whole,
            from the centre too, where all that is known and not left out has a say, whether it teaches or not.
        target: (N,) in 0..C-1, of those that teach.
        rows: (N,) which these are, one of several labels once for each; default all.
        weights: (N,) of each example, default 1.
        tail: so many of the last features are scaled only (`LinearHead`).
        balance: 0 = classes weigh what they number, 1 = all classes weigh the same.
        give_back: whether calibration may give frequent classes back what balancing took from them.

    Returns the head and the probabilities (N, C) that heads taught without an example's image give it. NaN where only
    one image is there, and, of an example whose class no other image shows, that class's own. Raises
    `TrainingError` without examples, or for sizes and values that do not fit.
    """
    values, labels = np.asarray(features, np.float32), np.asarray(target, np.int64)
    taught = np.arange(len(values)) if rows is None else np.asarray(rows, np.int64)
    if values.ndim != 2 or len(values) != len(images) or len(labels) != len(taught):
        got = f"{values.shape} with {len(images)} images, {len(taught)} rows with {len(labels)} targets"
        raise TrainingError("features (K, F) with K images, and a target of each row that teaches", got)
    if not len(labels):
        raise TrainingError("at least one example", "none", "label an image")
    if not np.isfinite(values).all() or labels.min() < 0 or labels.max() >= classes:
        raise TrainingError(f"finite features and targets in 0..{classes - 1}", "others", "leave these objects out")
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    names = np.asarray([str(each) for each in images])
    fold = group_folds(names[taught], FOLDS, seed)
    fold_of = dict(zip(names[taught].tolist(), fold.tolist(), strict=True))
    around = np.concatenate([taught, np.arange(len(values))])
    around_fold = np.array([fold_of.get(name, -1) for name in names[around].tolist()])
    mean, scale = _centre(values[around])
    base = LinearHead(
        "constant",
        mean,
        scale,
        np.zeros((classes, values.shape[1]), np.float32),
        np.zeros(classes, np.float32),
        1.0,
        np.bincount(labels, minlength=classes),
        float("nan"),
        tail,
    )
    recipes = _recipes(base.examples)
    logits: list[Float64s] = [np.full((len(labels), classes), np.nan) for _ in recipes]
    could_know = np.ones(len(labels), bool)
    for number in range(fold.max() + 1):
        out = fold == number
        if out.all():
            recipes, logits = recipes[:1], logits[:1]
            break
        could_know[out] = np.isin(labels[out], labels[~out])
        unit = _unit(values[taught], *_centre(values[around[around_fold != number]]), tail)
        for recipe, left_out in zip(recipes, logits, strict=True):
            solved = _solved(recipe, unit[~out], labels[~out], weight[~out], classes, balance, seed)
            left_out[out] = unit[out] @ solved[0].T + solved[1]
    backs = GIVEN_BACK if give_back else (0.0,)
    tries: list[tuple[LinearHead, Float64s]] = []
    for recipe, left_out in zip(recipes, logits, strict=True):
        fitted = _calibrated(base, left_out, labels, weight, could_know, len(fold_of), backs)
        tries.append((replace(fitted, kind=recipe[0]), left_out + fitted.bias))
    losses = [np.nan_to_num(head.log_loss, nan=np.inf) for head, _ in tries]
    best = min(range(len(tries)), key=lambda index: (round(losses[index], 4), -index))  # of equals the regression
    head, left_out = tries[best]
    w, b = _solved(recipes[best], _unit(values[taught], mean, scale, tail), labels, weight, classes, balance, seed)
    head = replace(head, weights=w.astype(np.float32), bias=(b + head.bias).astype(np.float32))
    probabilities = softmax(left_out / head.temperature)
    probabilities[~could_know, labels[~could_know]] = np.nan
    return head, probabilities


def _centre(features: Float32s) -> tuple[Float32s, Float32s]:
    """Mean and standard deviation (F,) of (N, F), the latter 1 where nothing varies."""
    scale = features.std(0)
    return features.mean(0), np.where(scale > 1e-6 * max(1.0, float(scale.max())), scale, 1.0).astype(np.float32)


def _recipes(examples: Ints) -> list[tuple[Kind, float]]:
    """What may be tried with so many examples a class (C,)."""
    counts = np.sort(examples[examples > 0])[::-1]
    if len(counts) < 2:
        return [("constant", 0.0)]
    if counts[1] < FEW:
        return [("prototypes", 0.0)]
    return [("prototypes", 0.0), *(("logistic", strength) for strength in PENALTIES)]


def _solved(
    recipe: tuple[Kind, float],
    unit: Float64s,
    labels: Ints,
    weight: Floats,
    classes: int,
    balance: float,
    seed: int,
) -> tuple[Float64s, Float64s]:
    """Weights (C, F) and bias (C,); a class without examples is as good as impossible."""
    there = np.unique(labels)
    w, b = np.zeros((classes, unit.shape[1])), np.full(classes, -30.0)
    kind, strength = recipe
    if kind == "constant" or len(there) < 2:
        b[there] = 0.0
    elif kind == "prototypes":
        for each in there:
            mine = labels == each
            centre = np.average(unit[mine], axis=0, weights=weight[mine])
            w[each] = PROTOTYPE_SHARPNESS * centre / max(float(np.linalg.norm(centre)), 1e-9)
        b[there] = 0.0
    else:
        from sklearn.linear_model import LogisticRegression

        rows, thinned = _thinned(labels, weight, seed)
        totals = np.bincount(labels[rows], weights=thinned, minlength=classes)
        share = totals[there].sum() / len(there)
        balanced = thinned * (share / totals[labels[rows]]) ** balance
        model = LogisticRegression(C=strength, max_iter=100, tol=1e-2)
        model.fit(unit[rows] * LENGTH, labels[rows], sample_weight=balanced)
        found, offset = model.coef_ * LENGTH, model.intercept_
        if len(there) == 2:
            w[there[1]], b[there[1]], b[there[0]] = found[0], offset[0], 0.0
        else:
            w[there], b[there] = found, offset
    return w, b


def _thinned(labels: Ints, weight: Floats, seed: int) -> tuple[Ints, Float64s]:
    """At most `MOST_OF_A_CLASS` rows of each class, and weights that keep each class's total."""
    rng = np.random.default_rng(seed)
    rows, weights = [], []
    for each in np.unique(labels):
        mine = np.flatnonzero(labels == each)
        kept = np.sort(rng.choice(mine, MOST_OF_A_CLASS, replace=False)) if len(mine) > MOST_OF_A_CLASS else mine
        rows.append(kept)
        weights.append(weight[kept] * (weight[mine].sum() / max(weight[kept].sum(), 1e-12)))
    return np.concatenate(rows), np.concatenate(weights)


def _calibrated(
    head: LinearHead,
    logits: Float64s,
    labels: Ints,
    weight: Floats,
    could_know: npt.NDArray[np.bool_],
    images: int,
    backs: Sequence[float],
) -> LinearHead:
    """Temperature and bias of least log loss on images left out; the temperature is held back towards the prior where
    images are few. The bias gives back a share of what balancing took from the frequent classes.

    What shows a class that no other image taught says nothing (`could_know` (N,)): the heads that judged it held that
    class to be impossible, and the head that learns from all does not."""
    known = np.isfinite(logits).all(1) & could_know
    if not known.any():
        return replace(head, temperature=PRIOR_TEMPERATURE)
    target, shares = labels[known], weight[known] / weight[known].sum()
    rows = np.arange(len(target))
    often = np.log(np.maximum(head.examples, 1) / max(head.examples.sum(), 1))
    best = (np.inf, PRIOR_TEMPERATURE, 0.0)
    for back in backs:
        shifted = logits[known] + back * often
        for temperature in TEMPERATURES:
            loss = -float(shares @ np.log(softmax(shifted / temperature)[rows, target] + 1e-6))
            best = min(best, (loss, float(temperature), back))
    loss, fitted, back = best
    trust = images / (images + PRIOR_IMAGES)
    temperature = float(np.exp(trust * np.log(fitted) + (1 - trust) * np.log(PRIOR_TEMPERATURE)))
    return replace(head, temperature=temperature, log_loss=loss, bias=(back * often).astype(np.float32))


def softmax(logits: Floats) -> Float64s:
    """(K, C) -> (K, C), rows adding up to 1."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(shifted)
    result: Float64s = powers / powers.sum(1, keepdims=True)
    return result


def _unit(features: Floats, mean: Float32s, scale: Float32s, tail: int) -> Float64s:
    centred = (np.asarray(features, np.float64) - mean) / scale
    main, rest = np.split(centred, [centred.shape[1] - tail], axis=1)
    unit = main / np.maximum(np.linalg.norm(main, axis=1, keepdims=True), 1e-9)
    return np.concatenate([unit, rest * TAIL_SCALE], axis=1)
