"""What a project wants and what it calls things: a class head and a wanted head, taught by the same labels.

Shapes: N examples, F features, S shape numbers, K objects to judge, C classes of the configuration.

    heads = fit_project(examples, classes=("cat", "dog"), features_version=version, checkpoint="nano-m")
    wanted, probabilities = heads.judge(features, shapes)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.masks import box_iou
from usam.objects.effort import Prices, Threshold, choose_threshold, worthwhile
from usam.objects.estimate import Blend, average_precision, fit_blend
from usam.objects.linear import FEW, Float64s, Floats, LinearHead, fit_linear
from usam.predictor.object_features import PLACE_NUMBERS, SHAPE_NAMES

WANTED_IOU, UNWANTED_IOU = 0.5, 0.3
"""Overlap with a person's region from which on a proposal shows a wanted object, and below which it does not; what
lies between teaches nothing."""
COPY_IOU = 0.5
"""IoU of boxes from which on two objects nobody marked count as one and its copy."""
LEAST_PRECISION = 0.5
"""Of what SAM's estimate alone would show, above which it may decide: else few and clean proposals are less work."""
KIND_IMAGES = 5
"""Images that show a label from which on the wanted head tells its objects apart from other wanted ones."""
LEAST_IMAGES = 3
"""Labelled images, with both wanted and unwanted objects, from which on a project decides what is shown."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N objects of labelled images.

    features (N, F), shapes (N, S)   `usam.predictor.object_features`
    images (N,)                      what image each is of
    regions (N,)                     which region of a person it overlaps most, any name that is one in all images
    labels (N,)                      the labels that people gave it: one, several, or () for none
    overlap (N,)                     its IoU with it: 1 for the regions themselves, 0 for a proposal of a *finished*
                                     task that no region overlaps; NaN where it is not known (as for what nobody marked
                                     where a project marks only a part): teaches nothing
    proposed (N,)                    whether it is one of the proposals (the others are people's own regions): the
                                     threshold is chosen on proposals alone

    A task is finished when a person submitted it; skipped tasks and those that a machine accepted teach nothing, and
    must not be here. Several annotators of an image are several examples of one image.
    """

    features: Floats
    shapes: Floats
    images: Sequence[object]
    regions: Sequence[object]
    labels: Sequence[tuple[str, ...]]
    overlap: Floats
    proposed: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        parts = (self.features, self.shapes, self.images, self.regions, self.labels, self.overlap, self.proposed)
        if len(sizes := {len(part) for part in parts}) > 1:
            raise TrainingError("features, shapes, images, regions, labels, ... of one size", f"sizes {sorted(sizes)}")


@dataclass(frozen=True)
class ObjectSizes:
    """What marked objects are like: the side of the middle one, as the root of its share of the image, and how many an
    image has that has many (one in ten has more)."""

    side: float
    many: float

    @classmethod
    def of(cls, examples: Examples) -> ObjectSizes | None:
        """Of people's own regions; None without any."""
        marked = np.flatnonzero(~np.asarray(examples.proposed))
        if not len(marked) or np.shape(examples.shapes)[1] <= SHAPE_NAMES.index("size"):
            return None
        sizes = np.asarray(examples.shapes)[marked, SHAPE_NAMES.index("size")]
        counts = np.unique([str(examples.images[row]) for row in marked], return_counts=True)[1]
        return cls(float(np.median(sizes)), float(np.quantile(counts, 0.9)))


@dataclass(frozen=True)
class ChosenGrid:
    """How densely the project's images are looked at, as its labels chose (`usam.objects.grids`): points a side, and
    parts a side for a second pass; 1: none."""

    points_per_side: int
    tiles: int = 1


@dataclass(frozen=True, eq=False)
class ProjectHeads:
    """`classes` are the configuration's labels, in its order; `unseen` those without an example: their probability is
    0. `classifier` is None while no label was seen, `selector` while nothing unwanted or too little was; `sizes` are
    those of the marked objects, None where nobody marked one. `blend` says how much SAM's own estimate counts beside
    the wanted head, None for nothing. `grid` is None where nothing was tried beside what `sizes` ask for."""

    classes: tuple[str, ...]
    features_version: str
    checkpoint: str
    classifier: LinearHead | None
    selector: LinearHead | None
    threshold: Threshold
    figures: Mapping[str, float] = field(default_factory=dict)
    sizes: ObjectSizes | None = None
    blend: Blend | None = None
    grid: ChosenGrid | None = None

    @property
    def unseen(self) -> tuple[str, ...]:
        counts = self.classifier.examples if self.classifier else np.zeros(len(self.classes), np.int64)
        return tuple(name for name, count in zip(self.classes, counts, strict=True) if not count)

    def judge(self, features: Floats, shapes: Floats) -> tuple[Float64s, Float64s]:
        """Probability of being wanted (K,) and of each class (K, C); NaN where it is not learnt yet."""
        count = len(features)
        wanted: Float64s = np.full(count, np.nan)
        probabilities: Float64s = np.full((count, len(self.classes)), np.nan)
        if self.selector is not None:
            wanted = 1 - self.selector.probabilities(selector_inputs(features, shapes))[:, 0]
            if self.blend is not None:
                wanted = self.blend.probability(wanted, np.asarray(shapes)[:, -1])
        if self.classifier is not None:
            probabilities = self.classifier.probabilities(classifier_inputs(features, shapes))
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


def classifier_inputs(features: Floats, shapes: Floats) -> npt.NDArray[np.float32]:
    """What the class head reads: the wanted head's inputs but for how sure the mask is, which people's regions lack."""
    return selector_inputs(features, np.asarray(shapes)[:, :PLACE_NUMBERS])


def fit_project(
    examples: Examples,
    classes: Sequence[str],
    *,
    features_version: str,
    checkpoint: str,
    prices: Prices | None = None,
    least_recall: float = 0.8,
    seed: int = 0,
) -> ProjectHeads:
    """Teach both heads. One that is no better on images left out than what is known without it is not used: the wanted
    head than SAM's own estimate, the class head than the commonest class.

    `classes`: the configuration's labels as they are now. Those that it does not have any more teach no class, though
    their objects were wanted still. An object of several labels teaches each by its share. `prices`: of what is shown
    and what is missing, drawn by hand if nothing else is said. Raises `TrainingError` for no classes and no examples.
    """
    names = tuple(dict.fromkeys(classes))
    if not names:
        raise TrainingError("at least one label in the configuration", "none", "add a label")
    classifier, figures = _classifier(examples, names, seed)
    kinds = _kinds(examples, names)
    selector, blend, threshold, selector_figures = _selector(
        examples, kinds, prices or Prices.by_hand(), least_recall, seed
    )
    figures = figures | selector_figures
    sizes = ObjectSizes.of(examples)
    return ProjectHeads(names, features_version, checkpoint, classifier, selector, threshold, figures, sizes, blend)


def _classifier(examples: Examples, names: tuple[str, ...], seed: int) -> tuple[LinearHead | None, dict[str, float]]:
    index = {name: number for number, name in enumerate(names)}
    rows, target, weight = [], [], []
    for row, given in enumerate(examples.labels):
        known = [index[name] for name in given if name in index]
        rows += [row] * len(known)
        target += known
        weight += [1 / len(known) for _ in known]
    if not rows:
        return None, {}
    features = classifier_inputs(examples.features, examples.shapes)
    tail = features.shape[1] - np.shape(examples.features)[1]
    goal, share = np.array(target, np.int64), np.array(weight)
    marked = ~np.asarray(examples.proposed, bool)[rows]
    figures = {"class_examples": float(len(set(rows)))}
    for give_back in (False, True):  # images left out favour frequent labels: a rare one is often left out whole
        head, left_out = fit_linear(
            features,
            goal,
            examples.images,
            len(names),
            rows=rows,
            weights=share,
            give_back=give_back,
            tail=tail,
            seed=seed,
        )
        judged: npt.NDArray[np.bool_] = np.asarray(np.isfinite(left_out).all(axis=1))
        if not judged.any():
            return head, figures
        right = left_out[judged].argmax(1) == goal[judged]
        figures["class_accuracy"] = float(np.average(right, weights=share[judged]))
        commonest = np.bincount(goal[judged], weights=share[judged]).max() / share[judged].sum()
        figures["class_accuracy_before"] = float(commonest)
        told = marked if (judged & marked).any() else judged  # each marked object once, without its proposals
        called = np.where(judged, left_out.argmax(1), -1)
        figures |= class_figures(names, goal[told], called[told], share[told])
        enough = len(names) > 1 and np.sort(head.examples)[-2] >= FEW  # below, leaving one out leaves a class out
        if not enough or figures["class_accuracy"] >= commonest:
            return head, figures
    return None, figures


def class_figures(
    names: Sequence[str],
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    share: Float64s,
) -> dict[str, float]:
    """Labels, precision and recall of each class by N objects of images left out: `labels/NAME`, `precision/NAME` and
    `recall/NAME`, the latter in 0..1, NaN where nothing was called so or is so.

    `true` and `predicted` (N,) count from 0 in `names`, `share` (N,) is how much of an object each label has.
    What could not be called anything is predicted -1, and counts among the labels alone.

    >>> class_figures(["cat", "dog"], np.array([0, 0, 1]), np.array([0, 1, 1]), np.ones(3))["precision/dog"]
    0.5
    """
    figures: dict[str, float] = {}
    for number, name in enumerate(names):
        is_so, called_so, judged = true == number, predicted == number, predicted >= 0
        labels, called, right, told = (
            float(share[rows].sum()) for rows in (is_so, called_so, is_so & called_so, is_so & judged)
        )
        figures[f"labels/{name}"] = labels
        figures[f"precision/{name}"] = right / called if called else float("nan")
        figures[f"recall/{name}"] = right / told if told else float("nan")
    return figures


def _kinds(examples: Examples, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """What a wanted object is, (N,) in 1..: its first label that the configuration has, counted from 1; one more where
    it has none, or one that fewer than `KIND_IMAGES` images show: left out, such a label would not be known at all.
    One linear head cannot say "person or bowl or chair"; one that also says which can."""
    index = {name: number for number, name in enumerate(names, 1)}
    known = [[index[name] for name in given if name in index] for given in examples.labels]
    kinds = np.array([each[0] if each else len(names) + 1 for each in known], np.int64)
    shown_by = Counter(
        kind for kind, _ in {(kind, str(on)) for kind, on in zip(kinds.tolist(), examples.images, strict=True)}
    )
    return np.where([shown_by[kind] >= KIND_IMAGES for kind in kinds.tolist()], kinds, len(names) + 1)


def _selector(
    examples: Examples, kinds: npt.NDArray[np.int64], prices: Prices, least_recall: float, seed: int
) -> tuple[LinearHead | None, Blend | None, Threshold, dict[str, float]]:
    overlap = np.asarray(examples.overlap, np.float64)
    told = np.flatnonzero((overlap >= WANTED_IOU) | (overlap < UNWANTED_IOU))
    yes = overlap[told] >= WANTED_IOU
    images = [examples.images[row] for row in told]
    undecided = Threshold(worthwhile(prices), float("nan"), float("nan"))
    if len({str(image) for image, good in zip(images, yes, strict=True) if good}) < LEAST_IMAGES or yes.all():
        return None, None, undecided, {}
    inputs = selector_inputs(examples.features, examples.shapes)
    tail = inputs.shape[1] - np.shape(examples.features)[1]
    found, target = np.unique(np.where(yes, kinds[told], 0), return_inverse=True)
    head, left_out = fit_linear(inputs, target, examples.images, len(found), rows=told, tail=tail, seed=seed)
    rows = np.flatnonzero(np.asarray(examples.proposed)[told])
    judged, blend, kind = 1 - left_out[rows, 0], None, "head"
    shapes = np.asarray(examples.shapes)[told[rows]]
    known = shapes.shape[1] == len(SHAPE_NAMES)  # else chance stands for SAM's own estimate
    samscore = shapes[:, -1].astype(np.float64) if known else np.zeros(len(rows))
    if known and np.isfinite(judged).all():
        blend, judged, kind = fit_blend(judged, samscore, yes[rows], [images[row] for row in rows], seed)
    regions = [str(examples.regions[row]) for row in told[rows]]
    on, boxes = [str(images[row]) for row in rows], boxes_of(shapes) if known else None
    shown = _without_copies(judged, yes[rows], regions, on, boxes)
    plain = _without_copies(samscore, yes[rows], regions, on, boxes)
    before = average_precision(samscore[plain], yes[rows[plain]])
    judged, wanted = judged[shown], yes[rows[shown]]
    threshold = choose_threshold(judged, wanted, prices, least_recall=least_recall)
    figures = {
        "wanted_examples": float(yes.sum()),
        "unwanted_examples": float((~yes).sum()),
        "wanted_precision": threshold.precision,
        "wanted_recall": threshold.recall,
        "wanted_ap": average_precision(judged, wanted),
        "wanted_ap_before": before,
    }
    no_better = kind != "both" and figures["wanted_ap"] < before
    if no_better and not (kind == "estimate" and threshold.precision >= LEAST_PRECISION):
        return None, None, undecided, figures
    return head, None if kind == "head" else blend, threshold, figures


def boxes_of(shapes: Floats) -> Float64s:
    """x0, y0, x1, y1 (K, 4) as shares of the image, of objects whose shapes (K, S) `describe_shapes` told."""
    centre, sides = np.asarray(shapes, np.float64)[:, :2], np.asarray(shapes, np.float64)[:, 3:5]
    return np.clip(np.concatenate([centre - sides / 2, centre + sides / 2], axis=1), 0, 1)


def _without_copies(
    probability: Floats,
    wanted: npt.NDArray[np.bool_],
    regions: Sequence[str],
    images: Sequence[str],
    boxes: Float64s | None,
) -> npt.NDArray[np.int64]:
    """What would be shown at most: of several wanted proposals of one region the likeliest, and of the unwanted none
    whose box nearly is that of a likelier one of its image."""
    kept, seen, by_image = [], set(), defaultdict[str, list[int]](list)
    for row in np.argsort(-np.nan_to_num(probability, nan=-1.0), kind="stable").tolist():
        before = by_image[images[row]]
        if wanted[row]:
            if regions[row] in seen:
                continue
            seen.add(regions[row])
        elif boxes is not None and before and box_iou(boxes[[row]], boxes[before]).max() > COPY_IOU:
            continue
        before.append(row)
        kept.append(row)
    return np.array(sorted(kept), np.int64)
