"""In which order tasks are served: does the score of an image tell its true error?

True error: masks as the pool shows them, matched to the labelled objects one to one, an object without a mask counts 0;
one minus the mean IoU of the image's objects, the same for all orders. COCO: the images that the nano family has not
seen; BSDS500 a hundred, nuclei all. On these three the score was chosen; cats and animals chose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import PoolImage, pool_images
from bench.rows import Row
from usam.objects.effort import match_objects

SETS = (
    ("coco", None, True),
    ("bsds500", 100, True),
    ("nuclei", None, True),
    ("cats", 120, False),
    ("animals7", 120, False),
)
DRAWS = 1000
Floats = npt.NDArray[np.float64]


def run() -> list[Row]:
    """Spearman with the true error, and the share of it in the first quarter, for each order and set."""
    from usam.active.acquisition import random_acquisition

    rows = []
    for name, most, chose in SETS:
        images = [image for image in pool_images(name, most) if name != "coco" or image.part != "train"]
        error = np.array([_true_error(image, image.shown_clean()) for image in images])
        orders = {each: np.array([score(image) for image in images]) for each, score in _SCORES.items()}
        orders["random"] = random_acquisition([image.name for image in images], 0)
        rows += _figures(name, error, orders, chose)
    return rows


def _true_error(image: PoolImage, shown: Any) -> float:
    overlap = image.overlap[shown]
    partner = match_objects(overlap, 1e-6)
    found = sum(overlap[row, column] for row, column in enumerate(partner) if column >= 0)
    return 1 - float(found) / len(image.areas)


def _gap(image: PoolImage) -> Floats:
    return np.asarray(image.scores["task_gap"] + image.scores["model_gap"], np.float64)


def _expected_error(image: PoolImage) -> float:
    from usam.active.acquisition import expected_error

    shown, distinct = image.shown_clean(), image.distinct()
    uncovered = 1 - float(image.masks[shown].any(0).mean()) if len(shown) else 1.0
    return expected_error(image.rank[distinct], shown=np.isin(distinct, shown), uncovered=uncovered)


def _expected_gap(image: PoolImage) -> float:
    from usam.active.acquisition import expected_gap

    rows = image.candidates
    return expected_gap(_gap(image)[rows], image.rank[rows])


def _top_gaps(image: PoolImage) -> float:
    from usam.active.acquisition import image_score

    return image_score(_gap(image)[image.shown_before()])


def _predicted(image: PoolImage) -> float:
    from usam.active.acquisition import image_score

    return image_score(1 - np.asarray(image.rank[image.shown_before()], np.float64))


_SCORES: dict[str, Callable[[PoolImage], float]] = {
    "expected error": _expected_error,
    "task+epistemic, summed over expected objects": _expected_gap,
    "task+epistemic, top three shown (release 0.1)": _top_gaps,
    "predicted IoU, top three shown (release 0.1)": _predicted,
}


def _figures(name: str, error: Floats, orders: dict[str, Floats], chose: bool) -> list[Row]:
    from scipy.stats import rankdata

    rng = np.random.default_rng(0)
    drawn = rng.integers(len(error), size=(DRAWS, len(error)))
    quarter = max(1, len(error) // 4)
    total = float(np.sort(error)[::-1][:quarter].sum() / error.sum())
    ranks = rankdata(error[drawn], axis=1)
    samples = {each: _row_correlation(rankdata(values[drawn], axis=1), ranks) for each, values in orders.items()}
    before = samples["task+epistemic, top three shown (release 0.1)"]
    rows = []
    for each, values in orders.items():
        whole = float(_row_correlation(rankdata(values)[None], rankdata(error)[None])[0])
        low, high = np.nanpercentile(samples[each], [2.5, 97.5])
        gain = np.nanpercentile(samples[each] - before, [2.5, 50, 97.5])
        first = float(error[np.argsort(-values, kind="stable")[:quarter]].sum() / error.sum())
        note = (
            f"95 % [{low:+.2f}, {high:+.2f}] over {len(error)} images; first quarter holds {first:.2f} of the error, "
            f"oracle {total:.2f}; against release 0.1 {gain[1]:+.2f} [{gain[0]:+.2f}, {gain[2]:+.2f}]"
            f"{'' if chose else '; this set chose nothing'}"
        )
        target = ">= 0.45" if each == "expected error" and chose else ""
        rows.append(Row(f"{name}, Spearman of an image's true error with {each}", whole, "", "", target, note=note))
    return rows


def _row_correlation(first: Floats, second: Floats) -> Floats:
    a, b = (part - part.mean(1, keepdims=True) for part in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)))
