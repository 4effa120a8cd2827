"""A promise about accepted masks, and how well audit labels bear it out.

Legend: I images. Images are independent of one another, the masks of one image are not: a dark picture spoils all of
its masks at once. A p-value that takes masks for independent breaks the promise; so an image's failures are one draw of
up to `per_image`.

With one mask an image, the p-value is the binomial tail, which is exact for images without end; or, where that is
higher, the hypergeometric one, exact for the pool at hand: of a few dozen accepted masks, chance alone may make more
fail than of all images like theirs. With more masks an image, it is that of a bet against the hypothesis (Waudby-Smith
and Ramdas, arXiv 2010.09686): wealth multiplies by `1 - stake * (failed - risk * accepted)` with each image, a fair
game at best where the hypothesis is true, so wealth W has a chance of 1/W at most (Markov). Larger `per_image` asks for
more labels, since one image may do more harm.

MAPIE 1.6 tests masks as if they were independent; its p-value for one mask an image is this one, which the tests check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import PseudoLabelError

MOST_IMAGES = 100_000
_STAKES = (0.98, 0.7, 0.45, 0.25, 0.12)
_PRIOR = (0.5, 0.2, 0.15, 0.1, 0.05)
"""Stakes as shares of the largest that cannot ruin, and how the first unit is spread over them: full stakes win
soonest where nothing fails, small ones survive failures."""


@dataclass(frozen=True)
class RiskGuarantee:
    """What is promised of accepted masks.

    `iou`, `risk` and `confidence` are in (0, 1). At most `per_image` masks of an image are accepted, the best. A mask
    with a task gap above `task_gap` (in IoU) is never accepted: which object is meant is a person's to say. With
    `whole_images`, masks are accepted only together with all others of their image, by the worst of them, and images of
    more than `per_image` masks not at all. Raises `PseudoLabelError` on values out of range.
    """

    iou: float = 0.8
    risk: float = 0.1
    confidence: float = 0.9
    per_image: int = 3
    task_gap: float = 0.1
    whole_images: bool = False

    def __post_init__(self) -> None:
        for name in ("iou", "risk", "confidence"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.floating) or not 0.0 < value < 1.0:
                raise PseudoLabelError(f"{name} between 0 and 1", str(value), "0.9 means 90 %")
        per_image: Any = self.per_image
        if not isinstance(per_image, int | np.integer) or per_image < 1:
            raise PseudoLabelError("per_image of at least 1", str(self.per_image), "say how many an image may have")
        gap: Any = self.task_gap
        if not isinstance(gap, int | float | np.floating) or not -0.5 <= gap <= 0.5:
            raise PseudoLabelError("a task gap from -0.5 to 0.5", str(self.task_gap), "0.1 is the usual one")

    @property
    def level(self) -> float:
        """Chance of breaking the promise: 1 - confidence."""
        return 1.0 - self.confidence


def p_value(
    failed: npt.NDArray[Any], accepted: npt.NDArray[Any], promise: RiskGuarantee, pool_masks: int | None = None
) -> float:
    """How well the hypothesis "more than `risk` of what is accepted fails" explains the audit, in (0, 1].

    `failed` and `accepted` (I,) count each image's masks, `accepted` at most `per_image`. Valid for any number of
    independent images: under the hypothesis, the value is at most x with a chance of at most x. With `pool_masks`, as
    many are accepted in the pool, and with one mask an image it is valid for the share of just these, too.
    """
    if promise.per_image == 1:
        return _tail(int(failed.sum()), int(accepted.sum()), promise.risk, pool_masks)
    excess = np.asarray(failed, np.float64) - promise.risk * np.asarray(accepted, np.float64)
    stakes = np.array(_STAKES) / ((1.0 - promise.risk) * promise.per_image)
    won = np.log1p(-stakes[:, None] * excess[None]).sum(axis=1) + np.log(_PRIOR)
    top = won.max()
    return min(1.0, math.exp(-(top + math.log(np.exp(won - top).sum()))))


def images_needed(
    promise: RiskGuarantee,
    rate: float,
    failing: float = 0.0,
    *,
    level: float | None = None,
    pool_masks: int | None = None,
) -> int:
    """Audited images that it takes to support the promise when each has `rate` accepted masks and the share `failing`
    of them fails, tested at `level` (without one: at the promise's); `MOST_IMAGES` where no number does.

    For one mask an image, whole failures are counted; for more, growth of the bet's wealth.
    """
    if rate <= 0.0 or failing >= promise.risk:
        return MOST_IMAGES
    level = promise.level if level is None else level
    low, high = 0, 1
    while high < MOST_IMAGES and expected_p(promise, rate, failing, high, pool_masks) > level:
        low, high = high, high * 2
    while high - low > 1 and high <= MOST_IMAGES:
        middle = (low + high) // 2
        if expected_p(promise, rate, failing, middle, pool_masks) > level:
            low = middle
        else:
            high = middle
    return min(high, MOST_IMAGES)


def expected_p(
    promise: RiskGuarantee, rate: float, failing: float, images: int, pool_masks: int | None = None
) -> float:
    """The p-value of `images` audited images with `rate` accepted masks each, of which the share `failing` fails."""
    masks = images * rate
    if promise.per_image == 1:
        failed, accepted = math.floor(failing * masks + 1e-9), math.floor(masks + 1e-9)
        return _tail(failed, accepted, promise.risk, pool_masks)
    stakes = np.array(_STAKES) / ((1.0 - promise.risk) * promise.per_image)
    won = images * np.log1p(stakes * promise.risk * rate * (1 - failing)) + np.log(_PRIOR)
    won += masks * failing * np.log1p(-stakes * (1 - promise.risk))
    return float(min(1.0, np.exp(-np.logaddexp.reduce(won))))


def _tail(failed: int, masks: int, risk: float, pool_masks: int | None) -> float:
    """Chance of at most `failed` failures among `masks` audited ones that fail with the chance `risk` each; or, where
    it is higher, among those when one more than may fail does among `pool_masks` others."""
    from scipy.special import bdtr

    if failed >= masks:
        return 1.0
    value = float(bdtr(failed, masks, risk))
    if pool_masks is None:
        return value
    return max(value, _drawn(failed, masks, failed + math.floor(risk * pool_masks + 1e-9) + 1, pool_masks))


def _drawn(failed: int, masks: int, failing: int, others: int) -> float:
    """Chance of at most `failed` failures among `masks` drawn out of these and `others`, of which `failing` fail."""
    from scipy.special import gammaln

    if failing > masks + others:
        return 0.0
    some = np.arange(max(0, failing - others), failed + 1)
    whole = masks + others
    ways = gammaln(masks + 1) - gammaln(some + 1) - gammaln(masks - some + 1)
    ways += gammaln(others + 1) - gammaln(failing - some + 1) - gammaln(others - failing + some + 1)
    ways -= gammaln(whole + 1) - gammaln(failing + 1) - gammaln(whole - failing + 1)
    return float(np.exp(ways).sum())
