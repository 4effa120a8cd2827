"""Predicted against true IoU on audit tasks, as points, means with intervals, and a picture of them.

Legend: N objects. Audit tasks are drawn at random and never learnt from, so what is found on them holds for the
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from usam.statistics import Interval, bootstrap_mean, calibration_error

if TYPE_CHECKING:
    from backend.store.records import SampleRow
    from usam.heads.head_set import HeadSet

Float64s = npt.NDArray[np.float64]
BINS, MIN_IN_BIN = 6, 8
FEW_IMAGES = 20
POINTS_DRAWN = 400
SIDE, EDGE = 300, 34
"""Size of the picture and of the edge for its numbers, in its own units."""
MULTIMASK = 3


@dataclass(frozen=True)
class Audited:
    """N audited objects: predicted and true IoU in 0..1, and the image of each."""

    predicted: Float64s
    true: Float64s
    images: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True)
class Bin:
    """Objects of like predicted IoU: their means, and the 95 % interval of the true one over images."""

    predicted: float
    true: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Calibrated:
    """What a plot shows. `error` is the mean distance between predicted and true IoU over bins, `bias` the mean of
    predicted minus true with its 95 % interval over images: above 0 the model promises too much."""

    objects: int
    images: int
    error: float
    bias: Interval
    bins: tuple[Bin, ...]
    points: tuple[tuple[float, float], ...] = field(repr=False)

    @property
    def verdict(self) -> str:
        """The same in words."""
        bias = self.bias
        interval = f"95 % interval {signed(bias.low)} to {signed(bias.high)}"
        if bias.low <= 0.0 <= bias.high:
            few = "" if self.images >= FEW_IMAGES else " Few audits are labelled yet."
            return f"No error on average that could be told from chance: {signed(bias.value)}, {interval}.{few}"
        more = "higher" if bias.value > 0 else "lower"
        return f"On average the predicted IoU is {abs(bias.value):.2f} {more} than the true one ({interval})."


def signed(value: float) -> str:
    """A difference with two places and its sign, where anything is left of it.

    >>> signed(0.021), signed(-0.004)
    ('+0.02', '0.00')
    """
    rounded = round(value, 2) + 0.0
    return f"{rounded:+.2f}" if rounded else "0.00"


def audited_by(heads: HeadSet, checkpoint: str, rows: Sequence[SampleRow]) -> Audited:
    """Predicted and true IoU of the mask that the heads would take of each sample's three.

    Samples that are boxes only say no true IoU and are left out; none are left where the heads predict no IoU.
    """
    import torch

    quality = heads.quality_for(checkpoint)
    usable = [row for row in rows if quality in row.targets and not row.box_only]
    if quality is None or not usable:
        return Audited(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    scored = heads.score_outputs(
        torch.from_numpy(np.stack([row.iou_token for row in usable]).astype(np.float32)),
        torch.from_numpy(np.stack([row.mask_tokens for row in usable]).astype(np.float32)),
        torch.tensor([[1, 2, 3]]).expand(len(usable), MULTIMASK),
    )
    predicted = np.asarray(heads.as_dict(scored)[quality], np.float64)
    true = np.array([row.targets[quality] for row in usable], np.float64)
    chosen = predicted.argmax(axis=1)[:, None]
    found = np.take_along_axis(predicted, chosen, 1)[:, 0], np.take_along_axis(true, chosen, 1)[:, 0]
    known = np.isfinite(found[0]) & np.isfinite(found[1])
    return Audited(found[0][known], found[1][known], np.array([row.task for row in usable])[known])


def calibrated(audited: Audited) -> Calibrated | None:
    """Means and intervals; None where there is nothing to show."""
    if not len(audited):
        return None
    order = np.argsort(audited.predicted, kind="stable")
    count = min(BINS, max(len(audited) // MIN_IN_BIN, 1))
    bins = []
    for part in np.array_split(order, count):
        mean = bootstrap_mean(audited.true[part], audited.images[part])
        bins.append(Bin(float(audited.predicted[part].mean()), mean.value, mean.low, mean.high, len(part)))
    drawn = order[np.linspace(0, len(order) - 1, min(len(order), POINTS_DRAWN)).astype(int)]
    return Calibrated(
        len(audited),
        len(np.unique(audited.images)),
        calibration_error(audited.predicted, audited.true, count),
        bootstrap_mean(audited.predicted - audited.true, audited.images),
        tuple(bins),
        tuple((float(audited.predicted[place]), float(audited.true[place])) for place in drawn),
    )


def across(value: float) -> float:
    """Where a predicted IoU stands in the picture, from its left.

    >>> across(0.0), across(1.0)
    (34.0, 300.0)
    """
    return round(EDGE + min(max(value, 0.0), 1.0) * (SIDE - EDGE), 1)


def down(value: float) -> float:
    """Where a true IoU stands in the picture, from its top."""
    return round((1.0 - min(max(value, 0.0), 1.0)) * (SIDE - EDGE), 1)
