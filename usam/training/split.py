"""Splits that keep a group (an image, or all frames of a video) on one side.

Legend: N rows, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.statistics import stable_uniform

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row indices to learn from, to stop by, and to report on; no group is in two of them."""

    train: Indices
    validation: Indices
    test: Indices


def _shuffled_groups(groups: npt.NDArray[Any], seed: int) -> tuple[npt.NDArray[Any], Indices]:
    """Distinct groups in an order that depends on their names and the seed, and each row's place in it
    (N,).
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(stable_uniform(names.tolist(), seed, "split"), kind="stable")
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return names[order], place[inverse.reshape(-1)]


def split_groups(groups: Sequence[object] | npt.NDArray[Any], validation: float, test: float, seed: int) -> Split:
    """Split N rows by group into shares (of groups) for validation and test and the rest for training.

    Each wanted part gets at least one group. Raises `TrainingError` when there are too few groups for that.
    """
    names, place = _shuffled_groups(np.asarray(groups), seed)
    wanted = [max(1, round(share * len(names))) if share > 0 else 0 for share in (test, validation)]
    if sum(wanted) >= len(names):
        raise TrainingError(
            f"more than {sum(wanted)} groups (images) to split", f"{len(names)}", "add images from other sources"
        )
    bounds = np.cumsum(wanted)
    part = np.searchsorted(bounds, place, side="right")
    return Split(np.flatnonzero(part == 2), np.flatnonzero(part == 1), np.flatnonzero(part == 0))


def group_folds(groups: Sequence[object] | npt.NDArray[Any], folds: int, seed: int) -> Indices:
    """Fold number of each row, (N,): `folds` parts of equally many groups, or a fold a group where there
    are fewer.
    """
    names, place = _shuffled_groups(np.asarray(groups), seed)
    return place % min(folds, len(names))
