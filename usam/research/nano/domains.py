"""How good a nano model is in each of many domains, and on average over them, beside another model.

Legend: D domains, N objects of one, I images of one, F figures, R rounds of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from usam.checkpoints.nano import NanoSAM
from usam.research.datasets.record import Record
from usam.research.nano.figures import Outcomes, best_of_three, held_out, measure, picked
from usam.research.nano.stored_images import Part

FloatArray = npt.NDArray[np.float64]
FIGURES = ("click, best of three", "click, own pick", "points, best of three", "box, best of three")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval by bootstrap over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class DomainValues:
    """The IoUs of one domain: `values` (N, F) and the image that each object is in, `groups` (N,)."""

    name: str
    groups: npt.NDArray[np.str_]
    values: FloatArray

    @property
    def images(self) -> int:
        return len(np.unique(self.groups))


def measure_domains(
    model: NanoSAM, records: Iterable[Record], smallest: float = 0.001, most: int = 10, part: Part = "test"
) -> list[DomainValues]:
    """The objects of one part of each data set among `records`, which come set by set; largest `most` an image."""
    found = []
    for name, members in groupby(held_out_by_set(records, part), key=lambda record: record.dataset):
        outcomes = measure(model, members, smallest, most)
        found.append(DomainValues(name, outcomes.groups, values_of(outcomes)))
    return found


def held_out_by_set(records: Iterable[Record], part: Part = "test") -> Iterator[Record]:
    """One part of `nano_split`, each image once within its set."""
    for _, members in groupby(records, key=lambda record: record.dataset):
        yield from held_out(members, part)


def values_of(outcomes: Outcomes) -> FloatArray:
    """(N, F) IoU of each object by each of `FIGURES`."""
    columns = [
        best_of_three(outcomes.iou["click"]),
        picked(outcomes.iou["click"], outcomes.predicted["click"]),
        best_of_three(outcomes.iou["points"]),
        best_of_three(outcomes.iou["box"]),
    ]
    return np.stack(columns, 1).astype(np.float64)


def domain_intervals(domain: DomainValues, rounds: int = 1000, seed: int = 0) -> list[Interval]:
    """One interval a figure for one domain."""
    return _intervals(*_resampled([domain], rounds, seed))


def mean_intervals(domains: Sequence[DomainValues], rounds: int = 1000, seed: int = 0) -> list[Interval]:
    """One interval a figure for the mean over domains, each of which counts alike; images are drawn within each."""
    return _intervals(*_resampled(domains, rounds, seed))


def gain(new: Sequence[DomainValues], old: Sequence[DomainValues]) -> list[DomainValues]:
    """What `new` has over `old`, object by object; both measured on the same records."""
    paired = []
    for ours, theirs in zip(new, old, strict=True):
        if ours.name != theirs.name or not np.array_equal(ours.groups, theirs.groups):
            raise ValueError(f"both measured on the same objects of {ours.name}, got others of {theirs.name}")
        paired.append(DomainValues(ours.name, ours.groups, ours.values - theirs.values))
    return paired


def _resampled(domains: Sequence[DomainValues], rounds: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """The (F,) means over domains, and (R, F) of them with images drawn anew."""
    rng = np.random.default_rng(seed)
    means, drawn = [], []
    for domain in domains:
        names, owner = np.unique(domain.groups, return_inverse=True)
        sums = np.zeros((len(names), domain.values.shape[1]))
        np.add.at(sums, owner, domain.values)
        counts = np.bincount(owner).astype(np.float64)
        chosen = rng.integers(len(names), size=(rounds, len(names)))
        means.append(domain.values.mean(0))
        drawn.append(sums[chosen].sum(1) / counts[chosen].sum(1)[:, None])
    return np.mean(means, axis=0), np.mean(drawn, axis=0)


def _intervals(means: FloatArray, drawn: FloatArray) -> list[Interval]:
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(means, low, high, strict=True)]
