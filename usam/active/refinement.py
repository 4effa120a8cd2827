"""Which doubtful objects are worth acting on, when acting may only cost so much.

Legend: N objects in I images; a *gap* (N,) says what an action would gain, in IoU, higher = act first; a *budget* is
the share, 0..1, of what it would cost to act on everything; *seconds* are those of one device.

Two gaps, two actions (UncertainSAM, arXiv 2505.05049): model gap, a larger model decodes; task gap, alternatives are
offered. The third, points of the own mask where the prompt gap is high, loses true IoU and is not taken (`python -m
bench actions`). What a larger model costs is mostly the encoding of the image, which all objects of that image share:
so whole images are chosen where there are many objects in each, single objects where each click is on an image of its
own. Alternatives cost a person's look.

A gap that is not above zero promises nothing and is never acted on, whatever the budget.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from usam.errors import UsamError

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Action = Literal["larger", "alternatives"]

GAP_OF: Mapping[Action, str] = {"larger": "model_gap", "alternatives": "task_gap"}
"""The gap that asks for each action."""
MIN_LABELLED = 10
"""Labelled objects, of at least `MIN_IMAGES` images, below which a measured gain says nothing."""
MIN_IMAGES = 5
_NEVER = math.inf


@dataclass(frozen=True)
class Cost:
    """Seconds that an action takes for each image (`encode_s`) and each of its objects (`decode_s`)."""

    encode_s: float
    decode_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.encode_s < math.inf and 0 <= self.decode_s < math.inf) or self.encode_s + self.decode_s == 0:
            raise UsamError("seconds of at least 0, not both 0", f"{self.encode_s} and {self.decode_s}", "measure them")

    def seconds(self, images: float, objects: float) -> float:
        """Seconds for so many images with so many objects in all."""
        return self.encode_s * images + self.decode_s * objects


@dataclass(frozen=True, eq=False)
class Plan:
    """What to act on. `threshold`: the least gap, or worth of an image, that is acted on, infinite for none; `share` of
    the whole cost that this is, 0..1 and never above the budget."""

    chosen: Flags
    threshold: float
    share: float


def threshold_for(gaps: Floats, budget: float) -> float:
    """The gap from which at most `budget` (0..1) of the objects (N,) are acted on; infinite where none may be.

    Ties stay out rather than break the budget. Raises `UsamError` on a budget outside 0..1 and gaps that are NaN.
    """
    values = _checked(gaps, budget)
    allowed = math.floor(budget * len(values) + 1e-9)
    ranked = np.sort(values[values > 0])[::-1]
    if allowed == 0 or not len(ranked):
        return _NEVER
    if len(ranked) <= allowed:
        return float(ranked[-1])
    above = ranked[ranked > ranked[allowed]]
    return float(above[-1]) if len(above) else _NEVER


def plan_objects(gaps: Floats, budget: float) -> Plan:
    """Each object by itself: right where nothing is shared, as with clicks on many images."""
    threshold = threshold_for(gaps, budget)
    chosen = np.asarray(gaps, np.float64) >= threshold
    return Plan(chosen, threshold, float(chosen.mean()) if len(chosen) else 0.0)


def plan_images(gaps: Floats, images: npt.NDArray[Any], budget: float, cost: Cost) -> Plan:
    """Whole images: right where the objects of an image share its encoding.

    In a chosen image every object whose gap is above 0 is acted on. Images are taken by worth, the sum of their
    positive gaps for each second, as long as the budget lasts: the greedy rule for a knapsack, best but for the last
    image. `images` (N,) names each object's. Raises `UsamError` as `threshold_for` does, and where sizes differ.
    """
    values = _checked(gaps, budget)
    names, places = np.unique(np.asarray(images), return_inverse=True)
    if len(places) != len(values):
        raise UsamError("one image name an object", f"{len(places)} names, {len(values)} gaps", "pass the same objects")
    positive = values > 0
    wanted = np.bincount(places, positive, len(names))
    price = np.where(wanted > 0, cost.encode_s + cost.decode_s * wanted, 0.0)
    whole = cost.seconds(len(names), len(values))
    worth = np.bincount(places, np.where(positive, values, 0.0), len(names)) / np.maximum(price, 1e-12)
    taken, spent, threshold = np.zeros(len(names), np.bool_), 0.0, _NEVER
    for image in np.argsort(-worth, kind="stable"):
        if wanted[image] == 0 or spent + price[image] > budget * whole * (1 + 1e-9):
            break
        taken[image], spent, threshold = True, spent + price[image], float(worth[image])
    return Plan(taken[places] & positive, threshold, spent / whole if whole else 0.0)


class Allowance:
    """Decides one by one, as gaps come in, so that at most `budget` of them are acted on: those of the highest gaps.

    A gap is acted on where it is at or above the threshold that the last `window` gaps set, and where that keeps the
    share of all gaps so far within the budget. The first `warm_up` only teach what is high. Not to be shared between
    threads without a lock.
    """

    def __init__(self, budget: float, *, window: int = 500, warm_up: int = 20) -> None:
        _checked(np.zeros(0), budget)
        self.budget, self.seen, self.acted = budget, 0, 0
        self._warm_up = warm_up
        self._recent: deque[float] = deque(maxlen=window)

    @property
    def threshold(self) -> float:
        """The least gap that is acted on now; infinite while none is."""
        if len(self._recent) < self._warm_up or not self.budget:
            return _NEVER
        return threshold_for(np.array(self._recent), self.budget)

    def admits(self, gap: float) -> bool:
        """Count a gap, and say whether to act on it. Gaps that are NaN are passed over."""
        if not self.budget or math.isnan(gap):
            return False
        self.seen += 1
        self._recent.append(gap)
        admitted = gap >= self.threshold and self.acted + 1 <= self.budget * self.seen
        self.acted += admitted
        return admitted


@dataclass(frozen=True)
class Gain:
    """What something gained in true IoU on labelled objects: the mean with its 95 % interval over images."""

    value: float
    low: float
    high: float
    objects: int
    images: int

    @property
    def known(self) -> bool:
        """Whether there were enough labels to say anything."""
        return self.objects >= MIN_LABELLED and self.images >= MIN_IMAGES

    @property
    def pays(self) -> bool | None:
        """True: the interval lies above 0. False: it lies at or below 0. None: nobody can tell yet."""
        if not self.known:
            return None
        return True if self.low > 0 else False if self.high <= 0 else None

    def figures(self) -> dict[str, Any]:
        """For records; what is not known is left out."""
        rounded = {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return {name: value for name, value in rounded.items() if value == value}

    @classmethod
    def of(cls, gains: Floats, images: npt.NDArray[Any], seed: int = 0) -> Gain:
        """From the gain of each object (N,) and its image (N,). Images are drawn: their objects share their luck."""
        from usam.statistics import bootstrap_mean

        known = np.asarray(gains, np.float64)
        count = len(np.unique(images))
        if not len(known):
            return cls(math.nan, math.nan, math.nan, 0, 0)
        found = bootstrap_mean(known, np.asarray(images), seed=seed)
        return cls(found.value, found.low, found.high, len(known), count)


def _checked(gaps: Floats, budget: float) -> npt.NDArray[np.float64]:
    if not 0.0 <= budget <= 1.0:
        raise UsamError("a budget from 0 to 1", str(budget), "0.35 acts on about a third")
    values = np.asarray(gaps, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise UsamError("gaps (N,) that are numbers", f"shape {values.shape}, or NaN", "leave unknown objects out")
    return values
