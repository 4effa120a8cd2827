"""Find all like this: the objects of a pool that look most like one or a few marked ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Similar:
    """Objects of a pool, the most alike first: `rows` (R,) into the pool, `similarity` (R,) in [-1, 1]."""

    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]


def find_similar(
    examples: Floats,
    pool: Floats,
    *,
    most: int = 100,
    least: float = 0.0,
    images: Sequence[object] | None = None,
    per_image: int | None = None,
) -> Similar:
    """The objects of a pool that are most like the examples.

    Parameters: examples (E, F) and pool (N, F) features; `most` to return, none of a similarity below `least`;
    `images` (N,) and `per_image` keep one image from filling the list.

    Similarity is the cosine, after centring and scaling by the pool, with the example that is most alike. Raises
    `TrainingError` without examples, or for other widths.
    """
    if examples.ndim != 2 or not len(examples) or pool.ndim != 2 or examples.shape[1] != pool.shape[1]:
        got = f"{examples.shape} and {pool.shape}"
        raise TrainingError("examples (E, F), at least one, and a pool (N, F)", got, "mark an object")
    values = np.asarray(pool, np.float32)
    mean = values.mean(0) if len(values) else np.zeros(values.shape[1], np.float32)
    scale = values.std(0) + 1e-6 if len(values) else np.ones(values.shape[1], np.float32)

    def unit(rows: Floats) -> npt.NDArray[np.float32]:
        centred = (np.asarray(rows, np.float32) - mean) / scale
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9), np.float32)

    similarity = (unit(values) @ unit(examples).T).max(1).astype(np.float64)
    order = np.argsort(-similarity, kind="stable")
    order = order[similarity[order] >= least]
    if per_image is not None and images is not None:
        taken: dict[object, int] = {}
        kept = []
        for row in order.tolist():
            taken[images[row]] = taken.get(images[row], 0) + 1
            if taken[images[row]] <= per_image:
                kept.append(row)
        order = np.array(kept, np.int64)
    return Similar(order[:most], similarity[order[:most]])
