"""A project's few labels on top of given heads, so that ten do no harm and fifty help.

Legend: N rows (objects), M masks a row (3 or 4), n = M N inputs, F width of a head's last hidden layer, C
columns of the design.

Only a head's last layer moves. With z the head's logit and h its last hidden layer, the adapted logit is `z
+ b + s (z - mean z) + (h - mean h) V t`, V the leading principal directions of h on the rows it is fitted to:
still a plain last layer, so the head set keeps its form. b, s and t minimise the logistic loss of the
labels over its dispersion plus a Gaussian prior around zero, that is, around the given head. The candidates
differ in what may move: nothing, b, b and s, or all three under priors of several widths. How much each is
worth is told by cross-validation by group (image): the weight of a candidate is the chance that it predicts
best, by its held-out errors under draws of the groups, times prior odds that favour 'none' (pseudo-BMA with
Bayesian bootstrap: Yao et al., arXiv 1704.02030). The adapted head is the weighted mean of the candidates'
last layers. So few labels, or labels from few images, move a head little rather than wholly or not at all.

The two constants of the weights, `EVIDENCE` and `PRIOR_ODDS`, were set on COCO, nuclei, natural scenes and
salient objects together; no label of a project changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.heads.head_set import HeadSet
from usam.statistics import calibration_error, pearson
from usam.training.network import Layers, Rows
from usam.training.split import group_folds

Float64s = npt.NDArray[np.float64]

FOLDS = 10
DIRECTIONS = 32
EVIDENCE = 0.5
"""What one object's held-out error counts for, in observations: its masks, and objects of an image, are alike."""
PRIOR_ODDS = 20.0
"""Of 'none' against each other candidate, before any label."""
LEAST_WEIGHT = 0.05
"""Of all candidates but 'none' together, below which the head stays as it is."""
DRAWS = 500


@dataclass(frozen=True)
class Candidate:
    """What may move, as standard deviations of the prior, in logits; 0 = may not move."""

    name: str
    bias: float = 0.0
    slope: float = 0.0
    hidden: float = 0.0

    def precision(self, directions: int) -> Float64s:
        """Prior precision of each column, (2 + directions,); infinite for what may not move."""
        deviations = np.array([self.bias, self.slope, *[self.hidden] * directions])
        with np.errstate(divide="ignore"):
            return np.asarray(deviations**-2.0)


CANDIDATES = (
    Candidate("none"),
    Candidate("bias", bias=0.5),
    Candidate("affine", bias=0.5, slope=0.25),
    Candidate("last layer, tight", bias=1.0, slope=0.5, hidden=0.5),
    Candidate("last layer", bias=1.0, slope=0.5, hidden=1.5),
    Candidate("last layer, loose", bias=1.0, slope=0.5, hidden=5.0),
)


@dataclass(frozen=True)
class Adaptation:
    """Adapted heads. `weights`: {head: {candidate: weight}}, summing to one; `chosen`: {head: candidate}, the
    heaviest; `losses`: {head: {candidate: squared error}}, cross-validated.

    `figures`: {head: {mse, mse_before, calibration_error, calibration_error_before, pearson,
    pearson_before, rows}}, cross-validated too: each row's prediction comes from fits that have not seen
    its group.
    """

    layers: dict[str, Layers]
    chosen: dict[str, str]
    weights: dict[str, dict[str, float]]
    losses: dict[str, dict[str, float]]
    figures: dict[str, dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """What the head set's metadata says about it."""
        return {
            "adaptation": self.chosen,
            "weights": self.weights,
            "cross_validation": self.losses,
            "figures": self.figures,
        }


def adapt_heads(init: HeadSet, rows: Rows, groups: npt.NDArray[Any], *, seed: int = 0) -> Adaptation:
    """Adapt each head that `rows` has targets of; rows in the alignment of `init`, groups (N,).

    A head whose labels come from fewer than three groups stays as it is. Raises `TrainingError` where the
    heads do not fit the tokens.
    """
    if init.width != rows.width:
        raise TrainingError(f"tokens of width {init.width}", f"{rows.width}", "use heads of this checkpoint")
    folds = group_folds(groups, FOLDS, seed)
    group_of = np.unique(groups, return_inverse=True)[1].reshape(-1)
    layers: dict[str, Layers] = {}
    chosen: dict[str, str] = {}
    weights: dict[str, dict[str, float]] = {}
    losses: dict[str, dict[str, float]] = {}
    figures: dict[str, dict[str, float]] = {}
    known_layers = init.layers()
    for index, name in enumerate(rows.names):
        problem = _Problem.of(known_layers[name], rows, index, folds, group_of)
        if problem is None:
            layers[name], chosen[name], weights[name] = known_layers[name], "none", {"none": 1.0}
            continue
        moves = problem.cross_validate()
        weights[name] = problem.weigh(moves, seed)
        layers[name] = problem.adapted(known_layers[name], weights[name])
        chosen[name] = max(weights[name].items(), key=itemgetter(1))[0]
        held_out = np.sum([weight * moves[candidate] for candidate, weight in weights[name].items()], axis=0)
        losses[name] = {key: problem.loss(problem.predicted(values)) for key, values in moves.items()}
        figures[name] = problem.figures(problem.predicted(moves["none"]), problem.predicted(held_out))
    return Adaptation(layers, chosen, weights, losses, figures)


@dataclass(frozen=True)
class _Basis:
    """By what a fit centres the last hidden layer (F,) and the logit, and the directions (F, C - 2) that may move."""

    centre: Float64s
    directions: Float64s
    mean_logit: float

    def design(self, hidden: Float64s, logits: Float64s) -> Float64s:
        """(n, C)"""
        moved = logits - self.mean_logit, (hidden - self.centre) @ self.directions
        return np.column_stack([np.ones(len(logits)), *moved])


@dataclass(frozen=True)
class _Problem:
    """One head's labels: last hidden layer (n, F), logits and truth (n,), weight of each value, its fold and group; and
    the number of directions that so many objects can tell."""

    hidden: Float64s
    logits: Float64s
    truth: Float64s
    weights: Float64s
    folds: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    directions: int

    @classmethod
    def of(
        cls,
        layers: Layers,
        rows: Rows,
        index: int,
        folds: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
    ) -> _Problem | None:
        """None where fewer than three groups have labels."""
        truth = rows.targets[:, :, index].astype(np.float64)
        known = ~np.isnan(truth) & (rows.weights[:, None] > 0)
        labelled = known.any(axis=1)
        if len(np.unique(groups[labelled])) < 3 or len(np.unique(folds[labelled])) < 2:
            return None
        hidden, logits = _last_hidden(layers, rows)
        # an object is one observation: its masks share its weight
        share = rows.weights / rows.weights[labelled].mean() / known.sum(axis=1).clip(min=1)
        weights, folds, groups = (
            np.broadcast_to(values[:, None], known.shape)[known] for values in (share, folds, groups)
        )
        directions = min(DIRECTIONS, max(1, int(labelled.sum()) // 3))
        return cls(hidden[known], logits[known], truth[known], weights, folds, groups, directions)

    def basis(self, rows: npt.NDArray[np.bool_]) -> _Basis:
        """Of these rows alone: what is left out has no say in it."""
        hidden, logits, weights = (part[rows] for part in (self.hidden, self.logits, self.weights))
        centre = np.average(hidden, axis=0, weights=weights)
        mean_logit = float(np.average(logits, weights=weights))
        return _Basis(centre, _directions(hidden - centre, weights, self.directions), mean_logit)

    def cross_validate(self) -> dict[str, Float64s]:
        """How far each candidate moves each logit, (n,), by a fit without its fold."""
        moves: dict[str, Float64s] = {candidate.name: np.zeros(len(self.truth)) for candidate in CANDIDATES}
        for fold in np.unique(self.folds):
            out = self.folds == fold
            design = self.basis(~out).design(self.hidden, self.logits)
            for candidate in CANDIDATES[1:]:
                moves[candidate.name][out] = design[out] @ self.fit(candidate, design, ~out)
        return moves

    def predicted(self, moves: Float64s | float) -> Float64s:
        """Values (n,) in [0, 1] when logits move so far."""
        return _sigmoid(self.logits + moves)

    def fit(self, candidate: Candidate, design: Float64s, rows: npt.NDArray[np.bool_]) -> Float64s:
        """Penalised logistic regression of a design (n, C) by Newton's method; coefficients (C,), zero for what may not
        move."""
        precision = candidate.precision(design.shape[1] - 2)
        moving = np.isfinite(precision)
        design, logits, truth, weights = (part[rows] for part in (design, self.logits, self.truth, self.weights))
        design, prior = design[:, moving], precision[moving]
        start = _sigmoid(logits)
        expected = (weights * start * (1 - start)).sum()
        dispersion = float(np.clip((weights * (truth - start) ** 2).sum() / max(expected, 1e-12), 0.02, 1.0))
        weights = weights / dispersion
        moved = np.zeros(design.shape[1])
        for _ in range(20):
            values = _sigmoid(logits + design @ moved)
            gradient = design.T @ (weights * (truth - values)) - prior * moved
            curvature = np.maximum(weights * values * (1 - values), 1e-3 * weights)
            step = np.linalg.solve((design.T * curvature) @ design + np.diag(prior), gradient)
            moved += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
            if np.abs(step).max() < 1e-6:
                break
        coefficients = np.zeros(len(precision))
        coefficients[moving] = moved
        return coefficients

    def weigh(self, moves: Mapping[str, Float64s], seed: int) -> dict[str, float]:
        """Weight of each candidate, given how far its held-out logits move; sums to one."""
        errors = np.stack([self._errors_by_group(self.predicted(moved)) for moved in moves.values()], axis=1)
        variance = max(min(self.loss(self.predicted(moved)) for moved in moves.values()), 1e-6)
        draws = np.random.default_rng(seed).dirichlet(np.ones(len(errors)), size=DRAWS) * len(errors)
        scores = -EVIDENCE * (draws @ errors) / (2 * variance)
        scores[:, list(moves).index("none")] += np.log(PRIOR_ODDS)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        means = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        weights = dict(zip(moves, (float(mean) for mean in means), strict=True))
        return weights if 1.0 - weights["none"] >= LEAST_WEIGHT else {"none": 1.0}

    def _errors_by_group(self, values: Float64s) -> Float64s:
        sums = np.bincount(self.groups, weights=self.weights * (values - self.truth) ** 2)
        return np.asarray(sums[np.unique(self.groups)], np.float64)

    def loss(self, values: Float64s) -> float:
        """Weighted squared error."""
        return float(np.average((values - self.truth) ** 2, weights=self.weights))

    def adapted(self, layers: Layers, weights: Mapping[str, float]) -> Layers:
        """The head with its last layer moved as the candidates, so weighed, do on all labels."""
        everything = np.ones(len(self.truth), bool)
        moving = [one for one in CANDIDATES[1:] if weights.get(one.name, 0.0) > 0]
        if not moving:
            return layers
        basis = self.basis(everything)
        design = basis.design(self.hidden, self.logits)
        fits = [weights[one.name] * self.fit(one, design, everything) for one in moving]
        bias, slope, *rest = np.sum(fits, axis=0)
        turn = basis.directions @ np.array(rest)
        weight, offset = layers[-1]
        new_weight = weight[0].astype(np.float64) * (1 + slope) + turn
        new_offset = float(offset[0]) * (1 + slope) + bias - slope * basis.mean_logit - basis.centre @ turn
        last = (new_weight[None].astype(np.float32), np.array([new_offset], np.float32))
        return [*layers[:-1], last]

    def figures(self, before: Float64s, after: Float64s) -> dict[str, float]:
        """Cross-validated figures without and with the chosen candidate."""
        return {
            "mse": self.loss(after),
            "mse_before": self.loss(before),
            "calibration_error": calibration_error(after, self.truth),
            "calibration_error_before": calibration_error(before, self.truth),
            "pearson": pearson(after, self.truth),
            "pearson_before": pearson(before, self.truth),
            "rows": float(len(self.truth)),
        }


def _last_hidden(layers: Layers, rows: Rows) -> tuple[Float64s, Float64s]:
    """Last hidden layer (N, M, F) and logit (N, M) of one head."""
    iou = np.repeat(rows.iou[:, None].astype(np.float32), rows.masks.shape[1], axis=1)
    hidden = np.concatenate([iou, rows.masks.astype(np.float32)], axis=2)
    for weight, bias in layers[:-1]:
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    weight, bias = layers[-1]
    return hidden.astype(np.float64), (hidden @ weight[0] + bias[0]).astype(np.float64)


def _directions(centred: Float64s, weights: Float64s, count: int) -> Float64s:
    """Leading principal directions (F, count), scaled so that all of the spread together has variance one."""
    rows = centred * np.sqrt(weights / weights.sum())[:, None]
    total = float((rows**2).sum())
    if total <= 0:
        return np.zeros((centred.shape[1], 1))
    if len(rows) < centred.shape[1]:  # the same, from the smaller matrix
        values, sides = np.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ sides / np.sqrt(values.clip(1e-12 * total))
    else:
        vectors = np.linalg.eigh(rows.T @ rows)[1]
    return np.asarray(vectors[:, ::-1][:, :count] / np.sqrt(total))


def _sigmoid(logits: Float64s) -> Float64s:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))
