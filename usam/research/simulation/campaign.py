"""One campaign: rank, label, retrain, pass the gate or not, accept what may be accepted, look at unseen images; again.

Legend: N objects of a labelled set, n of a part of it. A *label* is one object that a person answered; an image is
labelled as a whole. A third of the images (`test_share`) is held out: nothing of it is ever ranked, labelled or learnt
from, and the machine's quality is measured there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.active.acquisition import DEFAULT_RULE, IMAGE_RULES, STRATEGIES, image_score, object_scores
from usam.active.ordering import rank_pool
from usam.errors import PseudoLabelError, SimulationError, TrainingError
from usam.heads.head_set import HeadSet
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee, accept, calibrate
from usam.research.evaluation.objects import scores_of
from usam.research.simulation.annotator import Annotator
from usam.research.simulation.labelled_set import LabelledSet
from usam.statistics import calibration_error, share_to_oracle, stable_uniform
from usam.training import TrainSettings, fit_heads, split_groups
from usam.training.gate import judge

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Say = Callable[[int, int], None]
"""Called with (labels so far, labels to be had)."""
MIN_IMAGES = 3
"""Labelled images beside audits below which nothing is trained, as in the product."""


@dataclass(frozen=True)
class Campaign:
    """What is replayed. Shares in [0, 1]; `budget` and `step` count labels: after each `step` heads are trained.

    Raises `SimulationError` on an unknown strategy or rule, and on numbers out of range.
    """

    strategy: str
    budget: int = 200
    step: int = 20
    seed: int = 0
    audit_share: float = 0.1
    test_share: float = 0.33
    image_rule: str = DEFAULT_RULE
    promise: RiskGuarantee = field(default_factory=RiskGuarantee)
    annotator: Annotator = field(default_factory=Annotator)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SimulationError(f"strategies out of {', '.join(STRATEGIES)}", repr(self.strategy), "choose of these")
        if self.image_rule not in IMAGE_RULES:
            raise SimulationError(f"an image rule out of {', '.join(IMAGE_RULES)}", repr(self.image_rule))
        if self.budget < 1 or self.step < 1:
            raise SimulationError("a budget and a step of at least 1 label", f"{self.budget} and {self.step}")
        if not (0 <= self.audit_share < 1 and 0 < self.test_share < 1):
            got = f"{self.audit_share} and {self.test_share}"
            raise SimulationError("an audit share in [0, 1) and a test share in (0, 1)", got, "0.1 and 0.33 are usual")


@dataclass(frozen=True)
class Point:
    """The campaign after so many labels.

    `machine_iou` mean IoU of the machine's chosen masks on held-out images, `calibration_error` and `ranking` (share of
    the way from random to oracle in finding wrong masks) of predicted IoU there; `project_iou` that of the whole pool:
    people's masks where there are some, else the machine's. `accepted_share` of the pool's unlabelled objects is
    accepted under the promise, `violations` is the share of these that misses the promised IoU (0 where none is
    accepted). All in [0, 1], but `ranking` may be negative. `promoted`: heads that have passed the gate so far.
    """

    labels: int
    images: int
    audits: int
    clicks: int
    seconds: float
    machine_iou: float
    calibration_error: float
    ranking: float
    project_iou: float
    accepted_share: float
    violations: float
    promoted: int


@dataclass
class _Progress:
    """What changes while a campaign runs: flags over all N objects, and the champion."""

    champion: HeadSet
    labelled: Flags
    kept_iou: Float64s
    trained_on: Flags
    images: int = 0
    clicks: int = 0
    seconds: float = 0.0
    promoted: int = 0


def replay(labelled: LabelledSet, heads: HeadSet, campaign: Campaign, say: Say | None = None) -> list[Point]:
    """Play a campaign from given heads to its budget, or until the pool is empty; a point before the first label and
    one after each training.

    The same arguments give the same points. Raises `SimulationError` where too few images are left to label,
    `HeadsError` where the heads fit neither the set nor the strategy.
    """
    quality = labelled.fitting(heads)
    _check_strategy(labelled, heads, campaign)
    pool, test = parts(labelled, campaign)
    names, place = np.unique(labelled.images[pool], return_inverse=True)
    audit_image = stable_uniform(names.tolist(), campaign.seed, "audit") < campaign.audit_share
    audited = np.zeros(len(labelled), bool)
    audited[pool] = audit_image[place]
    features = _features(labelled, pool, place, len(names))
    state = _Progress(heads, np.zeros(len(labelled), bool), np.zeros(len(labelled)), np.zeros(len(labelled), bool))
    points = [_measure(labelled, state, campaign, quality, pool, test, audited)]
    waiting = np.ones(len(names), bool)
    while waiting.any() and (have := int(state.labelled.sum())) < campaign.budget:
        scores = _scores(labelled, state.champion, pool)
        for image in _order(labelled, scores, campaign, quality, pool, place, names, features, waiting):
            waiting[image] = False
            rows = np.flatnonzero(place == image)
            _label(labelled, state, campaign, pool[rows], scores[quality][rows].argmax(axis=1))
            if say is not None:
                say(min(int(state.labelled.sum()), campaign.budget), min(campaign.budget, len(pool)))
            if int(state.labelled.sum()) >= min(have + campaign.step, campaign.budget):
                break
        _retrain(labelled, state, heads, audited, campaign)
        points.append(_measure(labelled, state, campaign, quality, pool, test, audited))
    return points


def parts(labelled: LabelledSet, campaign: Campaign) -> tuple[Indices, Indices]:
    """Rows that may be labelled and rows that are held out; the same for all strategies of one seed.

    Raises `SimulationError` where fewer than `MIN_IMAGES` images are left to label.
    """
    try:
        split = split_groups(labelled.groups, 0.0, campaign.test_share, campaign.seed)
    except TrainingError as error:
        raise SimulationError("images to label and images to test on", error.got, "take more images") from error
    if (count := len(np.unique(labelled.images[split.train]))) < MIN_IMAGES:
        raise SimulationError(f"at least {MIN_IMAGES} images to label", str(count), "take more images")
    return split.train, split.test


def ceiling(labelled: LabelledSet, heads: HeadSet, campaign: Campaign) -> float:
    """Mean IoU of the machine's masks on the held-out images once all of the pool is labelled and learnt from, without
    a gate: what labels can achieve here.
    """
    pool, test = parts(labelled, campaign)
    fitted = _fit(labelled.batch(pool, heads), heads, campaign.seed)
    return float(_chosen(labelled, fitted, labelled.fitting(heads), test).mean())


def _check_strategy(labelled: LabelledSet, heads: HeadSet, campaign: Campaign) -> None:
    """Raises `HeadsError` or `SimulationError` where the strategy needs what is not there."""
    if campaign.strategy == "entropy" and labelled.entropy is None:
        raise SimulationError("tokens with entropies for the strategy 'entropy'", "none", "add --entropies")
    scores = {name: np.zeros(1) for name in heads.names} | {"h_std": np.zeros(1)}
    object_scores(scores, np.zeros(1), campaign.strategy, quality=heads.quality or "", rng=np.random.default_rng(0))


def _features(labelled: LabelledSet, pool: Indices, place: Indices, images: int) -> npt.NDArray[np.float32]:
    """(I, D) what near-duplicates are told by: the mean IoU token of each image of the pool, centred."""
    sums = np.zeros((images, labelled.iou_token.shape[1]), np.float64)
    np.add.at(sums, place, labelled.iou_token[pool].astype(np.float64))
    means = sums / np.bincount(place, minlength=images)[:, None]
    return np.asarray(means - means.mean(axis=0), np.float32)


def _scores(labelled: LabelledSet, heads: HeadSet, rows: Indices) -> dict[str, npt.NDArray[Any]]:
    """{head: (n, 3)}"""
    return scores_of(heads, labelled.iou_token[rows], labelled.mask_tokens[rows])


def _order(
    labelled: LabelledSet,
    scores: dict[str, npt.NDArray[Any]],
    campaign: Campaign,
    quality: str,
    pool: Indices,
    place: Indices,
    names: npt.NDArray[np.str_],
    features: npt.NDArray[np.float32],
    waiting: Flags,
) -> Indices:
    """Images of the pool that nobody has labelled, in the order in which they are served, audits among them."""
    rows, shown = np.arange(len(pool)), scores[quality].argmax(axis=1)
    sam = labelled.samscore[pool]
    if campaign.strategy == "samscore":
        shown = sam.argmax(axis=1)
    columns = {name: values[rows, shown] for name, values in scores.items()}
    if labelled.entropy is not None:
        columns["h_std"] = labelled.entropy[pool][rows, shown]
    open_ = np.flatnonzero(waiting)
    if campaign.strategy == "random":  # of images, so that it does not depend on how many objects they have
        worth = stable_uniform(names[open_].tolist(), campaign.seed, "random")
        ranking = rank_pool(names[open_].tolist(), worth, None, audit_share=campaign.audit_share, seed=campaign.seed)
        return open_[ranking.order]
    found = object_scores(columns, sam[rows, shown], campaign.strategy, quality=quality)
    worth = np.array([image_score(found[place == image], campaign.image_rule) for image in open_])
    ranking = rank_pool(
        names[open_].tolist(), worth, features[open_], audit_share=campaign.audit_share, seed=campaign.seed
    )
    return open_[ranking.order]


def _label(labelled: LabelledSet, state: _Progress, campaign: Campaign, rows: Indices, shown: Indices) -> None:
    answers = campaign.annotator.answer(labelled, rows, shown)
    state.labelled[rows] = True
    state.kept_iou[rows] = answers.iou
    state.images += 1
    state.clicks += int(answers.clicks.sum())
    state.seconds += float(answers.seconds.sum())


def _retrain(labelled: LabelledSet, state: _Progress, base: HeadSet, audited: Flags, campaign: Campaign) -> None:
    """As the product does it: heads from the base on all labels beside audits, then the gate."""
    train, held = np.flatnonzero(state.labelled & ~audited), np.flatnonzero(state.labelled & audited)
    if len(np.unique(labelled.images[train])) < MIN_IMAGES:
        return
    batch = labelled.batch(train, base)
    candidate = _fit(batch, base, campaign.seed)
    if candidate.version == state.champion.version:
        return
    verdict = judge(
        state.champion,
        candidate,
        batch,
        labelled.batch(held, base) if len(held) else None,
        lambda part: _fit(part, base, campaign.seed),
        ~state.trained_on[train],
        campaign.seed,
    )
    if verdict.promote:
        state.champion, state.promoted = candidate, state.promoted + 1
        state.trained_on[train] = True


def _fit(batch: Any, base: HeadSet, seed: int) -> HeadSet:
    settings = TrainSettings(seed=seed, device="cpu")
    return fit_heads(
        batch["iou_token"],
        batch["mask_tokens"],
        batch["targets"],
        batch["groups"],
        settings=settings,
        checkpoint=base.checkpoint,
        init=base,
    ).heads


def _chosen(labelled: LabelledSet, heads: HeadSet, quality: str, rows: Indices) -> Float64s:
    """(n,) true IoU of the mask that the machine chooses: the one with the highest predicted IoU."""
    picks = _scores(labelled, heads, rows)[quality].argmax(axis=1)
    return np.asarray(labelled.iou[rows, picks], np.float64)


def _measure(
    labelled: LabelledSet,
    state: _Progress,
    campaign: Campaign,
    quality: str,
    pool: Indices,
    test: Indices,
    audited: Flags,
) -> Point:
    predicted = _scores(labelled, state.champion, test)[quality].astype(np.float64)
    true = labelled.iou[test].astype(np.float64)
    machine = true[np.arange(len(test)), predicted.argmax(axis=1)]
    left = pool[~state.labelled[pool]]
    others = _chosen(labelled, state.champion, quality, left) if len(left) else np.empty(0)
    accepted_share, violations = _pseudo_labels(labelled, state, campaign, quality, left, audited)
    return Point(
        labels=int(state.labelled.sum()),
        images=state.images,
        audits=len(np.unique(labelled.images[state.labelled & audited])),
        clicks=state.clicks,
        seconds=state.seconds,
        machine_iou=float(machine.mean()),
        calibration_error=calibration_error(predicted.ravel(), true.ravel()),
        ranking=share_to_oracle(1 - predicted.ravel(), true.ravel(), np.ones(true.size)),
        project_iou=float(np.concatenate([state.kept_iou[pool[state.labelled[pool]]], others]).mean()),
        accepted_share=accepted_share,
        violations=violations,
        promoted=state.promoted,
    )


def _pseudo_labels(
    labelled: LabelledSet, state: _Progress, campaign: Campaign, quality: str, left: Indices, audited: Flags
) -> tuple[float, float]:
    """Share of the unlabelled objects that is accepted, and the share of these that misses the promised IoU."""
    audits = np.flatnonzero(state.labelled & audited)
    if not len(left) or not len(audits):
        return 0.0, 0.0
    audit = _candidates(labelled, state.champion, quality, audits)
    rest = _candidates(labelled, state.champion, quality, left)
    try:
        calibration = calibrate(audit, rest, campaign.promise, state.champion.version)
    except PseudoLabelError:
        return 0.0, 0.0
    taken = [one.place for one in accept(rest, calibration, state.champion.version)]
    if not taken or rest.true_iou is None:
        return 0.0, 0.0
    return len(taken) / len(left), float((rest.true_iou[taken] < campaign.promise.iou).mean())


def _candidates(labelled: LabelledSet, heads: HeadSet, quality: str, rows: Indices) -> Candidates:
    """The machine's chosen masks; calibration reads the truth of audits only."""
    scores = _scores(labelled, heads, rows)
    picks, row = scores[quality].argmax(axis=1), np.arange(len(rows))
    return Candidates(
        [str(number) for number in rows],
        labelled.images[rows].tolist(),
        scores[quality][row, picks],
        scores["task_gap"][row, picks] if "task_gap" in scores else None,
        labelled.iou[rows, picks],
    )
