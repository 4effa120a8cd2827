"""Masks that are accepted without a person, under a promise that holds in finite samples.

The promise: with probability `confidence` over the audit labels, at most the share `risk` of the masks that are
accepted overlaps its object by less than `iou`.

Legend: N masks, I images, S steps of a sequence. A *quality* is what masks are ordered by, an IoU: higher = better. A
mask *fails* where its true IoU is below the promised one.

How it is kept (Learn then Test: Angelopoulos et al., arXiv 2110.01052):

1. Thresholds come from the pool, whose labels nobody knows, strictest first; none depends on an audit label.
2. At each, the hypothesis "more than `risk` of what is accepted fails" gets a p-value from the audit labels
   (`usam.pseudo_labels.guarantee`).
3. They are tested in that order, each at a level of its own plus that of the one before where that was rejected (the
   fallback procedure: Wiens, Dmitrienko, J. Biopharm. Stat. 15, 2005). The levels add up to `1 - confidence`, so the
   chance to reject any that is true is no higher. The loosest that is rejected is used.

MAPIE 1.6 chooses among thresholds it is given whole predictions for, takes masks for independent, and watches with
estimators of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.arrays import numbers
from usam.errors import PseudoLabelError
from usam.pseudo_labels.guarantee import MOST_IMAGES, RiskGuarantee, expected_p, images_needed, p_value

__all__ = ["Acceptance", "Calibration", "Candidates", "RiskGuarantee", "Step", "accept", "calibrate", "thresholds"]

Float64s = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

STEP = 0.025
"""Share of the pool by which each threshold accepts more than the one before."""
SPREAD = 0.1
"""Standard deviation of true IoUs about their qualities, as it is guessed before any label is looked at."""
STARTS = 4
"""Thresholds beside the guessed one that may be supported on their own, so that a wrong guess is not the end."""
START_LEVEL = 1 / 8
"""What each of them has of the level; the guessed one has the rest."""


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
        for name in ("names", "images", "audited"):
            given = getattr(self, name)
            if not isinstance(given, Iterable) or (name != "audited" and isinstance(given, AbstractSet)):
                raise PseudoLabelError(f"{name} in the order of the masks", type(given).__name__, "pass a list")
            if not isinstance(given, Sequence | np.ndarray):
                object.__setattr__(self, name, tuple(given))
        for name in ("predicted_iou", "task_gap", "true_iou"):
            if name == "predicted_iou" or getattr(self, name) is not None:
                column = numbers(getattr(self, name), f"{name} (N,)", 1, PseudoLabelError)
                object.__setattr__(self, name, column)
        sizes = {len(self.names), len(self.images), len(self.predicted_iou)}
        sizes |= {len(one) for one in (self.task_gap, self.true_iou) if one is not None}
        if len(sizes) > 1:
            raise PseudoLabelError("columns of one length", str(sorted(sizes)), "pass the same masks")

    @cached_property
    def places(self) -> Places:
        """(N,) number of each mask's image."""
        known: dict[object, int] = {}
        return np.array([known.setdefault(image, len(known)) for image in self.images], np.int64).reshape(-1)

    @cached_property
    def image_count(self) -> int:
        """I, images without masks included."""
        return len(set(self.audited) | set(self.images))

    def quality(self, promise: RiskGuarantee) -> Float64s:
        """(N,) what the mask's IoU is expected to be when nobody says which object is meant: predicted IoU minus the
        task gap where that is positive; -inf above the promise's limit, and where anything is NaN."""
        found = np.asarray(self.predicted_iou, np.float64)
        if self.task_gap is not None:
            gap = np.asarray(self.task_gap, np.float64)
            found = np.where(gap > promise.task_gap, -np.inf, found - np.maximum(gap, 0.0))
        return np.where(np.isnan(found), -np.inf, found)

    def ranked(self, promise: RiskGuarantee) -> Float64s:
        """(N,) what a threshold is put to: the quality of each image's `per_image` best masks, of the others -inf; with
        `whole_images` that of the worst mask of the image."""
        quality = self.quality(promise)
        if promise.whole_images and len(quality):
            worst = np.full(self.places.max() + 1, np.inf)
            np.minimum.at(worst, self.places, quality)
            worst[np.bincount(self.places) > promise.per_image] = -np.inf
            return worst[self.places]
        return _among_best(quality, self.places, promise.per_image)

    def accepted(self, promise: RiskGuarantee, threshold: float) -> Flags:
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
    """One threshold tested: how many audited masks it accepts, how many of them fail, the p-value of "too many" and the
    level it was tested at."""

    threshold: float
    accepted: int
    failed: int
    p_value: float
    level: float

    @property
    def held(self) -> bool:
        """Whether the audits support it."""
        return self.p_value <= self.level


@dataclass(frozen=True)
class Calibration:
    """A threshold under which the promise holds, and all that is needed to trace it.

    `heads` names the head set whose predictions were calibrated, `digest` the audit labels; `pool_share` is the share
    of the pool's masks that it accepts.
    """

    promise: RiskGuarantee
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
            return cls(**{**known, "promise": RiskGuarantee(**known["promise"]), "steps": steps})
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


def calibrate(audit: Candidates, pool: Candidates, promise: RiskGuarantee, heads: str = "") -> Calibration:
    """The loosest threshold under which audit labels support the promise.

    Parameters
    ----------
    audit
        The masks of images that were drawn at random and labelled by people, with `true_iou`.
    pool
        The masks of the images that are to be labelled, from which the thresholds come.
    promise
        The IoU, the share of masks that may miss it, and how sure to be of that.
    heads
        Name of the head set that predicted the IoUs; masks scored by others will not be accepted.

    Returns
    -------
    `Calibration`: `threshold` (accept from this quality on), `pool_share` and all steps that were tested.

    Raises
    ------
    PseudoLabelError
        No threshold is supported; `needed` is the number of audited images still missing.

    Examples
    --------
    >>> from usam.pseudo_labels.calibration import Candidates, RiskGuarantee
    >>> rng = np.random.default_rng(0)
    >>> predicted, names = rng.uniform(0.3, 1, 400), [str(number) for number in range(400)]
    >>> drawn = Candidates(names, names, predicted, true_iou=predicted - 0.02)
    >>> pool = Candidates(names, names, rng.uniform(0.3, 1, 400))
    >>> calibration = usam.calibrate(drawn, pool, RiskGuarantee(iou=0.7, risk=0.1, confidence=0.9))
    >>> 0.65 < calibration.threshold < 0.75, calibration.pool_share > 0.3
    (True, True)
    """
    if audit.true_iou is None:
        raise PseudoLabelError("audit labels", "masks without a true IoU", "label the audit tasks")
    if ((audit.true_iou < 0) | (audit.true_iou > 1 + 1e-6)).any():
        raise PseudoLabelError("true IoUs from 0 to 1", "others", "0.9 means 90 %; NaN where there is no object")
    sequence, levels = thresholds(pool, promise, audit.image_count)
    quality, to_come = audit.ranked(promise), pool.ranked(promise)
    fails = ~(np.asarray(audit.true_iou, np.float64) >= promise.iou)
    steps: list[Step] = []
    passed_on = 0.0
    for threshold, own in zip(sequence.tolist(), levels.tolist(), strict=True):
        level, passed_on = own + passed_on, 0.0
        if level == 0.0:
            continue
        taken = quality >= threshold
        accepted = np.bincount(audit.places[taken], minlength=1)
        failed = np.bincount(audit.places[taken], fails[taken], minlength=1)
        value = p_value(failed, accepted, promise, int(np.count_nonzero(to_come >= threshold)))
        steps.append(Step(threshold, int(accepted.sum()), int(failed.sum()), value, level))
        if steps[-1].held:
            passed_on = level
    held = [step for step in steps if step.held]
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


def thresholds(pool: Candidates, promise: RiskGuarantee, audit_images: int) -> tuple[Float64s, Float64s]:
    """(S,) thresholds to be tested in turn, strictest first: qualities at which the pool's accepted share grows by
    `STEP`; and (S,) the level that each has of its own.

    A strict threshold has few audited masks to be judged by, a loose one many that fail. Most of the level goes to the
    one whose p-value is expected to be lowest if true IoUs lie about the qualities with a spread of `SPREAD`; the rest
    to some that accept ever more, each twice what the last does. A wrong guess costs acceptances, never the promise.
    Empty where so many audited images cannot support any, even if no mask fails.
    """
    from scipy.special import ndtr

    best = pool.ranked(promise)
    best = np.sort(best[np.isfinite(best)])[::-1]
    images = max(pool.image_count, 1)
    ends = np.unique(np.ceil(np.arange(STEP, 1 + STEP / 2, STEP) * len(best)).astype(int).clip(0, len(best)))
    flawless = np.array([expected_p(promise, end / images, 0.0, audit_images, int(end)) for end in ends])
    ends, flawless = ends[flawless <= promise.level], flawless[flawless <= promise.level]
    if not len(ends):
        return best[:0], best[:0]
    found, last = np.unique(-best[ends - 1], return_index=True)
    failing = np.cumsum(ndtr((promise.iou - best) / SPREAD))[ends - 1] / ends
    guess = np.argmin(
        [
            expected_p(promise, end / images, fails, audit_images, int(end))
            for end, fails in zip(ends, failing, strict=True)
        ]
    )
    levels = np.zeros(len(ends))
    share, starts = 0, np.flatnonzero(flawless <= START_LEVEL * promise.level)
    for place in starts:
        if ends[place] >= 2 * share and np.count_nonzero(levels) < STARTS:
            levels[place], share = START_LEVEL * promise.level, ends[place]
    levels[guess] += promise.level - levels.sum()
    return -found, np.add.reduceat(levels, last)


def _among_best(quality: Float64s, places: Places, count: int) -> Float64s:
    """(N,) the qualities, -inf for masks that are not among the `count` best of their image."""
    order = np.lexsort((-quality, places))
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    found: Float64s = quality.copy()
    found[order[rank >= count]] = -np.inf
    return found


def _refusal(audit: Candidates, pool: Candidates, promise: RiskGuarantee, steps: Sequence[Step]) -> PseudoLabelError:
    """Why there is no calibration, and what would help."""
    have = audit.image_count
    expected = f"audit labels that support IoU {promise.iou:g} for all but {promise.risk:.1%} of masks"
    best = pool.ranked(promise)
    masks = int(np.isfinite(best).sum())
    rate = masks / max(pool.image_count, 1)
    if not rate:
        return PseudoLabelError(expected, "no mask in the pool that may be accepted", "raise the task gap's limit")
    if not steps:
        more = max(images_needed(promise, rate, pool_masks=masks) - have, 1)
        return PseudoLabelError(
            expected,
            f"{have} audited images, too few even if no mask fails",
            f"label {more} more audit tasks, or ask for less",
            needed=more,
        )
    tried = min(steps, key=lambda step: step.p_value / step.level)
    seen = max(have, 1)
    failing = tried.failed / max(tried.accepted, 1)
    masks = int(np.count_nonzero(best >= tried.threshold))
    more = images_needed(promise, tried.accepted / seen, failing, level=tried.level, pool_masks=masks) - have
    got = f"{tried.failed} failures among the {tried.accepted} best masks of {have} audited images"
    if have + more >= MOST_IMAGES:
        return PseudoLabelError(expected, got, "more labels alone would not do: lower the IoU, or raise the risk")
    more = max(more, 1)
    return PseudoLabelError(expected, got, f"label about {more} more audit tasks, or ask for less", needed=more)
