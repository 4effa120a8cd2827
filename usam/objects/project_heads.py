"""What a project wants and what it calls things: a class head and a wanted head, taught by the same labels.

Shapes: N examples, F features, S shape numbers, K objects to judge, C classes of the configuration.

    heads = fit_project(examples, classes=("cat", "dog"), features_version=version, checkpoint="nano-m")
    wanted, probabilities = heads.judge(features, shapes)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.objects.effort import Prices, Threshold, choose_threshold, worthwhile
from usam.objects.linear import Float64s, Floats, LinearHead, fit_linear

LEAST_IMAGES = 3
"""Labelled images, with both wanted and unwanted objects, from which on a project decides what is shown."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N objects of labelled images.

    features (N, F), shapes (N, S)   `usam.predictor.object_features`
    images (N,)                      what image each is of
    labels (N,)                      the labels that people gave it: one, several, or () for none
    wanted (N,)                      1: a person marked it; 0: a proposal of a *finished* task that nobody marked;
                                     -1: not known (as where a project marks only a part): teaches neither
    proposed (N,)                    whether it is one of the proposals (the others are people's own regions): the
                                     threshold is chosen on proposals alone

    A task is finished when a person submitted it; skipped tasks and those that a machine accepted teach nothing, and
    must not be here. Several annotators of an image are several examples of one image.
    """

    features: Floats
    shapes: Floats
    images: Sequence[object]
    labels: Sequence[tuple[str, ...]]
    wanted: npt.NDArray[np.int64]
    proposed: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        sizes = [len(part) for part in (self.features, self.shapes, self.images, self.labels, self.wanted, self.proposed)]
        if len(set(sizes)) > 1:
            raise TrainingError("features, shapes, images, labels, wanted and proposed of one size", str(sizes))


@dataclass(frozen=True, eq=False)
class ProjectHeads:
    """`classes` are the configuration's labels, in its order; `unseen` those without an example: their probability is
    0. `classifier` is None while no label was seen, `selector` while nothing unwanted or too little was."""

    classes: tuple[str, ...]
    features_version: str
    checkpoint: str
    classifier: LinearHead | None
    selector: LinearHead | None
    threshold: Threshold
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def unseen(self) -> tuple[str, ...]:
        counts = self.classifier.examples if self.classifier else np.zeros(len(self.classes), np.int64)
        return tuple(name for name, count in zip(self.classes, counts, strict=True) if not count)

    def judge(self, features: Floats, shapes: Floats) -> tuple[Float64s, Float64s]:
        """Probability of being wanted (K,), NaN where that is not learnt yet, and of each class (K, C), NaN likewise."""
        count = len(features)
        wanted, probabilities = np.full(count, np.nan), np.full((count, len(self.classes)), np.nan)
        if self.selector is not None:
            wanted = self.selector.probabilities(selector_inputs(features, shapes))[:, 1]
        if self.classifier is not None:
            probabilities = self.classifier.probabilities(features)
        return wanted, probabilities

    def shown(self, wanted: Floats) -> npt.NDArray[np.bool_]:
        """Which of K objects to show by their probability of being wanted; all where nothing is learnt."""
        return np.isnan(wanted) | (wanted >= self.threshold.value)

    def check_fits(self, features_version: str) -> None:
        """Raises `TrainingError` where features of that version are not those that taught these heads."""
        if features_version != self.features_version:
            raise TrainingError(f"features {self.features_version}", features_version, "retrain on these features")


def selector_inputs(features: Floats, shapes: Floats) -> npt.NDArray[np.float32]:
    """(K, F) and (K, S) -> (K, F + S), what the wanted head reads."""
    return np.concatenate([np.asarray(features, np.float32), np.asarray(shapes, np.float32)], axis=1)


def fit_project(
    examples: Examples,
    classes: Sequence[str],
    *,
    features_version: str,
    checkpoint: str,
    renamed: Mapping[str, str] | None = None,
    prices: Prices | None = None,
    least_recall: float = 0.8,
    seed: int = 0,
) -> ProjectHeads:
    """Teach both heads.

    `classes`: the configuration's labels as they are now; `renamed`: old name -> new name of labels that were renamed.
    Labels that the configuration does not have any more teach no class, though their objects were wanted still. An
    object of several labels teaches each by its share. Raises `TrainingError` for no classes and no examples.
    """
    names = tuple(dict.fromkeys(classes))
    if not names:
        raise TrainingError("at least one label in the configuration", "none", "add a label")
    classifier, class_figures = _classifier(examples, names, dict(renamed or {}), seed)
    selector, threshold, selector_figures = _selector(examples, prices or Prices(), least_recall, seed)
    figures = class_figures | selector_figures
    return ProjectHeads(names, features_version, checkpoint, classifier, selector, threshold, figures)


def _classifier(
    examples: Examples, names: tuple[str, ...], renamed: Mapping[str, str], seed: int
) -> tuple[LinearHead | None, dict[str, float]]:
    index = {name: number for number, name in enumerate(names)}
    rows, target, weight = [], [], []
    for row, given in enumerate(examples.labels):
        known = [index[name] for each in given if (name := renamed.get(each, each)) in index]
        rows += [row] * len(known)
        target += known
        weight += [1 / len(known) for _ in known]
    if not rows:
        return None, {}
    features = np.asarray(examples.features, np.float32)
    images = [examples.images[row] for row in rows]
    goal, share = np.array(target, np.int64), np.array(weight)
    head, left_out = fit_linear(
        features[rows], goal, images, len(names), weights=share, background=features, seed=seed
    )
    known = np.isfinite(left_out).all(1)
    figures = {"class_examples": float(len(set(rows)))}
    if known.any():
        right = left_out[known].argmax(1) == goal[known]
        figures["class_accuracy"] = float(np.average(right, weights=share[known]))
    return head, figures


def _selector(
    examples: Examples, prices: Prices, least_recall: float, seed: int
) -> tuple[LinearHead | None, Threshold, dict[str, float]]:
    told = np.flatnonzero(np.asarray(examples.wanted) >= 0)
    yes = np.asarray(examples.wanted)[told] == 1
    images = [examples.images[row] for row in told]
    both = len({str(image) for image, good in zip(images, yes, strict=True) if good}) >= LEAST_IMAGES
    undecided = Threshold(worthwhile(prices), float("nan"), float("nan"))
    if not both or yes.all():
        return None, undecided, {}
    inputs = selector_inputs(examples.features, examples.shapes)
    head, left_out = fit_linear(inputs[told], yes.astype(np.int64), images, 2, background=inputs, seed=seed)
    proposed = np.asarray(examples.proposed)[told]
    threshold = choose_threshold(left_out[proposed, 1], yes[proposed], prices, least_recall=least_recall)
    figures = {
        "wanted_examples": float(yes.sum()),
        "unwanted_examples": float((~yes).sum()),
        "wanted_precision": threshold.precision,
        "wanted_recall": threshold.recall,
    }
    return head, threshold, figures
