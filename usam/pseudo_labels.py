"""Masks that are accepted without a person, under a promise that holds in finite samples.

The promise: with probability `confidence` over the audit labels, at most the share `risk` of the masks that are
accepted overlaps its object by less than `iou`.

Legend: N masks, I images, S steps of a sequence. A *quality* is what masks are ordered by, an IoU: higher = better. A
mask *fails* where its true IoU is below the promised one.

How it is kept (Learn then Test: Angelopoulos et al., arXiv 2110.01052):

1. Thresholds come from the pool, whose labels nobody knows, strictest first; none depends on an audit label.
2. At each, the hypothesis "more than `risk` of what is accepted fails" gets a p-value from the audit labels.
3. They are tested in that order until one is not rejected at `1 - confidence`; the last rejected one is used. Testing
   in a fixed order needs no correction for the number of tests.

Images are independent of one another, the masks of one image are not: a dark picture spoils all of its masks at once.
A p-value that takes masks for independent breaks the promise; so an image's failures are one draw of up to `per_image`.
With one mask an image, the p-value is the binomial tail, which is exact. With more, it is that of a bet against the
hypothesis (Waudby-Smith and Ramdas, arXiv 2010.09686): wealth multiplies by `1 - stake * (failed - risk * accepted)`
with each image, a fair game at best where the hypothesis is true, so wealth W has a chance of 1/W at most (Markov).
Larger `per_image` asks for more labels, since one image may do more harm.

MAPIE 1.6 tests masks as if they were independent, chooses among thresholds it is given whole predictions for, and
watches with estimators of its own; its p-value for one mask an image is this one, which the tests check.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import PseudoLabelError

Float64s = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

STEP = 0.025
"""Share of the pool by which each threshold accepts more than the one before."""
SPREAD = 0.1
"""Standard deviation of true IoUs about their qualities, as it is guessed before any label is looked at."""
_STAKES = (0.98, 0.7, 0.45, 0.25, 0.12)
_PRIOR = (0.5, 0.2, 0.15, 0.1, 0.05)
"""Stakes as shares of the largest that cannot ruin, and how the first unit is spread over them: full stakes win
soonest where nothing fails, small ones survive failures."""
_MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Promise:
    """What is promised of accepted masks.

    `iou`, `risk` and `confidence` are in (0, 1). At most `per_image` masks of an image are accepted, the best. A mask
    with a task gap above `task_gap` (in IoU) is never accepted: which object is meant is a person's to say. With
    `whole_images`, masks are accepted only together with all others of their image, by the worst of them, and images of
    more than `per_image` masks not at all. Raises `PseudoLabelError` on values out of range.
    """

    iou: float = 0.9
    risk: float = 0.05
    confidence: float = 0.9
    per_image: int = 3
    task_gap: float = 0.1
    whole_images: bool = False

    def __post_init__(self) -> None:
        for name in ("iou", "risk", "confidence"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise PseudoLabelError(f"{name} between 0 and 1", str(value), "0.9 means 90 %")
        if self.per_image < 1:
            raise PseudoLabelError("per_image of at least 1", str(self.per_image), "say how many an image may have")
        if not -0.5 <= self.task_gap <= 0.5:
            raise PseudoLabelError("a task gap from -0.5 to 0.5", str(self.task_gap), "0.1 is the usual one")

    @property
    def level(self) -> float:
        """Chance of breaking the promise: 1 - confidence."""
        return 1.0 - self.confidence


@dataclass(frozen=True, eq=False)
class Candidates:
    """N masks that could be accepted.

    `names` (N,) tell them apart, `images` (N,) say which belong together, `predicted_iou` (N,) in 0..1, `task_gap`
    (N,) in IoU as served, None where no head tells it; `true_iou` (N,) in 0..1 where a person has drawn the objects.
    `audited` are all images looked at, those without masks included. Raises `PseudoLabelError` where sizes differ.
    """

    names: Sequence[str]
    images: Sequence[object]
    predicted_iou: npt.NDArray[Any]
    task_gap: npt.NDArray[Any] | None = None
    true_iou: npt.NDArray[Any] | None = None
    audited: Sequence[object] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.images), len(self.predicted_iou)}
        sizes |= {len(one) for one in (self.task_gap, self.true_iou) if one is not None}
        if len(sizes) > 1:
            raise PseudoLabelError("columns of one length", str(sorted(sizes)), "pass the same masks")

    @cached_property
    def places(self) -> Places:
        """(N,) number of each mask's image."""
        known: dict[object, int] = {}
        return np.array([known.setdefault(image, len(known)) for image in self.images], np.int64).reshape(-1)

    @property
    def image_count(self) -> int:
        """I, images without masks included."""
        return len(set(self.audited) | set(self.images))

    def quality(self, promise: Promise) -> Float64s:
        """(N,) what the mask's IoU is expected to be when nobody says which object is meant: predicted IoU minus the
        task gap where that is positive; -inf above the promise's limit, and where anything is NaN."""
        found = np.asarray(self.predicted_iou, np.float64)
        if self.task_gap is not None:
            gap = np.asarray(self.task_gap, np.float64)
            found = np.where(gap > promise.task_gap, -np.inf, found - np.maximum(gap, 0.0))
        return np.where(np.isnan(found), -np.inf, found)

    def ranked(self, promise: Promise) -> Float64s:
        """(N,) what a threshold is put to: the quality of each image's `per_image` best masks, of the others -inf; with
        `whole_images` that of the worst mask of the image."""
        quality = self.quality(promise)
        if promise.whole_images and len(quality):
            worst = np.full(self.places.max() + 1, np.inf)
            np.minimum.at(worst, self.places, quality)
            worst[np.bincount(self.places) > promise.per_image] = -np.inf
            return worst[self.places]
        return _among_best(quality, self.places, promise.per_image)

    def accepted(self, promise: Promise, threshold: float) -> Flags:
        """(N,) the masks that may be accepted and are of at least this quality."""
        return self.ranked(promise) >= threshold

    def digest(self) -> str:
        """SHA-256 of everything that a calibration takes from here, whatever the order."""
        columns = [self.predicted_iou, self.task_gap, self.true_iou]
        rows = [
            "|".join([str(name), str(image), *(f"{one[row]:.6f}" if one is not None else "" for one in columns)])
            for row, (name, image) in enumerate(zip(self.names, self.images, strict=True))
        ]
        rows += [f"audited|{image}" for image in self.audited]
        return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


@dataclass(frozen=True)
class Step:
    """One threshold tested: how many audited masks it accepts, how many of them fail, and the p-value of "too many"."""

    threshold: float
    accepted: int
    failed: int
    p_value: float


@dataclass(frozen=True)
class Calibration:
    """A threshold under which the promise holds, and all that is needed to trace it.

    `heads` names the head set whose predictions were calibrated, `digest` the audit labels; `pool_share` is the share
    of the pool's masks that it accepts.
    """

    promise: Promise
    threshold: float
    heads: str
    digest: str
    images: int
    accepted: int
    failed: int
    p_value: float
    pool_share: float
    steps: tuple[Step, ...] = field(repr=False)

    def as_record(self) -> dict[str, Any]:
        """For JSON; `of_record` reads it back."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Calibration:
        """From `as_record`. Raises `PseudoLabelError` where something is missing."""
        try:
            known = {one.name: record[one.name] for one in fields(cls)}
            steps = tuple(Step(**step) for step in known["steps"])
            return cls(**{**known, "promise": Promise(**known["promise"]), "steps": steps})
        except (KeyError, TypeError) as error:
            raise PseudoLabelError("the record of a calibration", f"one without {error}", "calibrate again") from error


@dataclass(frozen=True)
class Acceptance:
    """One mask accepted without a person, and by which right. `place` is its row among the candidates."""

    name: str
    image: object
    place: int
    predicted_iou: float
    quality: float
    threshold: float
    heads: str
    calibration: str


def calibrate(audit: Candidates, pool: Candidates, promise: Promise, heads: str = "") -> Calibration:
    """The loosest threshold under which audit labels support the promise.

    `audit` are the masks of images drawn at random and labelled by people, `pool` those of the images to be labelled,
    from which the thresholds come. Raises `PseudoLabelError`, with the number of audited images still needed, where no
    threshold is supported.
    """
    if audit.true_iou is None:
        raise PseudoLabelError("audit labels", "masks without a true IoU", "label the audit tasks")
    sequence = thresholds(pool, promise, audit.image_count)
    quality = audit.ranked(promise)
    fails = ~(np.asarray(audit.true_iou, np.float64) >= promise.iou)
    steps: list[Step] = []
    for threshold in sequence:
        taken = quality >= threshold
        accepted = np.bincount(audit.places[taken], minlength=1)
        failed = np.bincount(audit.places[taken], fails[taken], minlength=1)
        value = p_value(failed, accepted, promise)
        steps.append(Step(float(threshold), int(accepted.sum()), int(failed.sum()), value))
        if value > promise.level:
            break
    held = [step for step in steps if step.p_value <= promise.level]
    if not held:
        raise _refusal(audit, pool, promise, steps)
    last = held[-1]
    return Calibration(
        promise,
        last.threshold,
        heads,
        audit.digest(),
        audit.image_count,
        last.accepted,
        last.failed,
        last.p_value,
        float(pool.accepted(promise, last.threshold).mean()) if len(pool.names) else 0.0,
        tuple(steps),
    )


def accept(candidates: Candidates, calibration: Calibration, heads: str = "") -> list[Acceptance]:
    """The masks that may be used without a person, best first.

    Raises `PseudoLabelError` where the candidates were scored by other heads than those that were calibrated.
    """
    if heads != calibration.heads:
        raise PseudoLabelError(f"masks scored by heads {calibration.heads!r}", repr(heads), "calibrate again")
    quality = candidates.quality(calibration.promise)
    taken = np.flatnonzero(candidates.accepted(calibration.promise, calibration.threshold))
    return [
        Acceptance(
            str(candidates.names[place]),
            candidates.images[place],
            int(place),
            float(candidates.predicted_iou[place]),
            float(quality[place]),
            calibration.threshold,
            calibration.heads,
            calibration.digest,
        )
        for place in taken[np.argsort(-quality[taken], kind="stable")]
    ]


def thresholds(pool: Candidates, promise: Promise, audit_images: int) -> Float64s:
    """(S,) thresholds to be tested in turn, strictest first: qualities at which the pool's accepted share grows by
    `STEP`.

    A strict threshold has few audited masks to be judged by, a loose one many that fail. The first is the one whose
    p-value is expected to be lowest if true IoUs lie about the qualities with a spread of `SPREAD`; a wrong guess costs
    acceptances, never the promise. Empty where so many audited images cannot support any, even if no mask fails.
    """
    from scipy.special import ndtr

    best = pool.ranked(promise)
    best = np.sort(best[np.isfinite(best)])[::-1]
    images = max(pool.image_count, 1)
    if not len(best) or audit_images < images_needed(promise, len(best) / images):
        return best[:0]
    ends = np.unique(np.ceil(np.arange(STEP, 1 + STEP / 2, STEP) * len(best)).astype(int).clip(1, len(best)))
    failing = np.cumsum(ndtr((promise.iou - best) / SPREAD))[ends - 1] / ends
    expected = [
        _expected_p(promise, rate, fails, audit_images) for rate, fails in zip(ends / images, failing, strict=True)
    ]
    return np.asarray(np.unique(best[ends[int(np.argmin(expected)) :] - 1])[::-1], np.float64)


def p_value(failed: npt.NDArray[Any], accepted: npt.NDArray[Any], promise: Promise) -> float:
    """How well the hypothesis "more than `risk` of what is accepted fails" explains the audit, in (0, 1].

    `failed` and `accepted` (I,) count each image's masks, `accepted` at most `per_image`. Valid for any number of
    independent images: under the hypothesis, the value is at most x with a chance of at most x.
    """
    if promise.per_image == 1:
        return _binomial_tail(int(failed.sum()), int(accepted.sum()), promise.risk)
    excess = np.asarray(failed, np.float64) - promise.risk * np.asarray(accepted, np.float64)
    stakes = np.array(_STAKES) / ((1.0 - promise.risk) * promise.per_image)
    won = np.log1p(-stakes[:, None] * excess[None]).sum(axis=1) + np.log(_PRIOR)
    top = won.max()
    return min(1.0, math.exp(-(top + math.log(np.exp(won - top).sum()))))


def images_needed(promise: Promise, rate: float, failing: float = 0.0) -> int:
    """Audited images that it takes to support the promise when each has `rate` accepted masks and the share `failing`
    of them fails; `_MOST_IMAGES` where no number does.

    For one mask an image, whole failures are counted; for more, growth of the bet's wealth.
    """
    if rate <= 0.0 or failing >= promise.risk:
        return _MOST_IMAGES
    low, high = 0, 1
    while high < _MOST_IMAGES and _expected_p(promise, rate, failing, high) > promise.level:
        low, high = high, high * 2
    while high - low > 1 and high <= _MOST_IMAGES:
        middle = (low + high) // 2
        if _expected_p(promise, rate, failing, middle) > promise.level:
            low = middle
        else:
            high = middle
    return min(high, _MOST_IMAGES)


def _expected_p(promise: Promise, rate: float, failing: float, images: int) -> float:
    masks = images * rate
    if promise.per_image == 1:
        return _binomial_tail(math.floor(failing * masks + 1e-9), math.floor(masks + 1e-9), promise.risk)
    stakes = np.array(_STAKES) / ((1.0 - promise.risk) * promise.per_image)
    won = images * np.log1p(stakes * promise.risk * rate * (1 - failing)) + np.log(_PRIOR)
    won += masks * failing * np.log1p(-stakes * (1 - promise.risk))
    return float(min(1.0, np.exp(-np.logaddexp.reduce(won))))


def _binomial_tail(failed: int, masks: int, risk: float) -> float:
    """Chance of at most `failed` failures among `masks` that fail with the chance `risk` each."""
    from scipy.special import bdtr

    return float(bdtr(failed, masks, risk)) if failed < masks else 1.0


def _among_best(quality: Float64s, places: Places, count: int) -> Float64s:
    """(N,) the qualities, -inf for masks that are not among the `count` best of their image."""
    order = np.lexsort((-quality, places))
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    found: Float64s = quality.copy()
    found[order[rank >= count]] = -np.inf
    return found


def _refusal(audit: Candidates, pool: Candidates, promise: Promise, steps: Sequence[Step]) -> PseudoLabelError:
    """Why there is no calibration, and what would help."""
    have = audit.image_count
    expected = f"audit labels that support IoU {promise.iou:g} for all but {promise.risk:.1%} of masks"
    best = pool.ranked(promise)
    rate = float(np.isfinite(best).sum()) / max(pool.image_count, 1)
    if not rate:
        return PseudoLabelError(expected, "no mask in the pool that may be accepted", "raise the task gap's limit")
    if not steps:
        more = images_needed(promise, rate) - have
        return PseudoLabelError(
            expected,
            f"{have} audited images, too few even if no mask fails",
            f"label {more} more audit tasks, or ask for less",
            needed=more,
        )
    tried = steps[0]
    seen = max(have, 1)
    more = images_needed(promise, tried.accepted / seen, tried.failed / max(tried.accepted, 1)) - have
    got = f"{tried.failed} failures among the {tried.accepted} best masks of {have} audited images"
    if have + more >= _MOST_IMAGES:
        return PseudoLabelError(expected, got, "more labels alone would not do: lower the IoU, or raise the risk")
    more = max(more, 1)
    return PseudoLabelError(expected, got, f"label about {more} more audit tasks, or ask for less", needed=more)
