"""Which image a person should see next: object scores, image scores, order, audit, confidence.

Legend: K objects of one image, N images (tasks) of a pool, F width of an image feature. An *acquisition*
says how much a person's answer is worth: higher = ask first. A *confidence* is what Label Studio stores as
a prediction's `score`: in (0, 1], lower = served first. Gaps and IoUs are shares of one, not percent.
Everything here is a pure function of arrays; nothing is read, written or drawn without a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from usam.errors import HeadsError, UsamError
from usam.statistics import Float64s, stable_uniform

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

Strategy = Literal[
    "expected-error", "task+epistemic", "task", "epistemic", "prompt", "predicted-iou", "entropy", "samscore", "random"
]
ImageRule = Literal["top-mean", "max", "mean", "sum"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
IMAGE_RULES: tuple[str, ...] = get_args(ImageRule)
DEFAULT_STRATEGY: Strategy = "task+epistemic"
DEFAULT_RULE: ImageRule = "top-mean"

_GAPS: dict[str, tuple[str, ...]] = {
    "task+epistemic": ("task_gap", "model_gap"),
    "task": ("task_gap",),
    "epistemic": ("model_gap",),
    "prompt": ("prompt_gap",),
}
_NOT_QUALITY = ("iou_dense_prompt", "iou_unsupervised")
_ENTROPIES = ("entropy", "h_std")


def object_scores(
    scores: Mapping[str, Floats],
    ious: Floats,
    strategy: str = DEFAULT_STRATEGY,
    *,
    quality: str = "",
    rng: np.random.Generator | None = None,
) -> Float64s:
    """Acquisition of each object, (K,), higher = ask first.

    | strategy | acquisition | in words |
    |---|---|---|
    | `task` | task_gap | IoU lost because nobody says which of the three masks is meant |
    | `epistemic` | model_gap | IoU that a bigger model would add: the model does not know this kind |
    | `task+epistemic` | task_gap + model_gap | what only a person or training settles; clicks would not |
    | `prompt` | prompt_gap | IoU that more clicks would add |
    | `predicted-iou` | 1 - quality head | expected error of the mask |
    | `expected-error` | as `predicted-iou` | of one object; of an image it is `expected_error` |
    | `samscore` | 1 - SamScore | SAM's own expected error |
    | `entropy` | `scores["entropy"]` or `["h_std"]` | pixel entropy of the mask |
    | `random` | uniform draw from `rng` | the order that every other one has to beat |

    `scores` holds (K,) arrays by head name, gaps as served (already minus 0.5); `ious` the SamScore of the
    same masks. `quality` names the head of the checkpoint's own IoU (`HeadSet.quality`); left empty, the
    last `iou_` head that predicts a model's IoU is taken. Gaps are not clipped at zero, so that certain
    objects keep an order too.

    Raises `HeadsError` where a needed score is absent, `UsamError` on an unknown strategy, on sizes that
    differ, and for `random` without `rng`.
    """
    count = len(ious)
    if strategy == "random":
        if rng is None:
            raise UsamError("a generator for the strategy 'random'", "none", "pass rng=np.random.default_rng(seed)")
        return rng.random(count)
    if strategy == "samscore":
        return 1.0 - np.asarray(ious, np.float64)
    if strategy in ("predicted-iou", "expected-error"):
        return 1.0 - _column(scores, quality or _quality_head(scores), count)
    if strategy == "entropy":
        name = next((name for name in _ENTROPIES if name in scores), _ENTROPIES[0])
        return _column(scores, name, count)
    if strategy not in _GAPS:
        raise UsamError(f"a strategy out of {', '.join(STRATEGIES)}", repr(strategy), "choose one of these")
    total: Float64s = np.sum([_column(scores, gap, count) for gap in _GAPS[strategy]], axis=0)
    return total


def _quality_head(scores: Mapping[str, Floats]) -> str:
    names = [name for name in scores if name.startswith("iou_") and name not in _NOT_QUALITY]
    for preferred in ("iou_large", "iou_nano_m"):
        if preferred in names:
            return preferred
    return names[-1] if names else "iou_large"


def _column(scores: Mapping[str, Floats], name: str, count: int) -> Float64s:
    if name not in scores:
        raise HeadsError(f"a score named {name}", ", ".join(scores) or "none", "use a head set that has it")
    values = np.asarray(scores[name], np.float64)
    if values.shape != (count,):
        raise UsamError(f"{count} values of {name}, one an object", f"shape {values.shape}", "pass the same objects")
    return values


def image_score(objects: Floats, rule: str = DEFAULT_RULE, *, top: int = 3, empty: float = 0.0) -> float:
    """Acquisition of one image from its objects' (K,), higher = ask first.

    `top-mean` (default): mean of the `top` highest, over the objects that there are. One visit of a person
    settles a few objects, so the worth of an image is that of its few most doubtful ones; `max` follows a
    single outlier of a noisy head, `mean` lets easy background objects hide a hard one, and `sum` counts
    proposals more than doubt (right where the person labels everything and effort per image does not
    matter). Objects that are NaN are left out. An image without objects gets `empty`. Raises `UsamError` on
    an unknown rule or `top` below one.
    """
    if rule not in IMAGE_RULES:
        raise UsamError(f"an image rule out of {', '.join(IMAGE_RULES)}", repr(rule), "choose one of these")
    if top < 1:
        raise UsamError("top of at least 1", str(top), "say how many objects count")
    values = np.asarray(objects, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return empty
    if rule == "max":
        return float(values.max())
    if rule == "sum":
        return float(values.sum())
    if rule == "top-mean" and values.size > top:
        values = np.partition(values, -top)[-top:]
    return float(values.mean())


UNCOVERED_WEIGHT = 0.25
"""What an image that no shown mask covers counts, beside an image all of whose objects are wrong."""


def expected_error(
    predicted_iou: Floats,
    *,
    shown: Flags | None = None,
    wanted: Floats | None = None,
    label: Floats | None = None,
    uncovered: float = 1.0,
) -> float:
    """How wrong the masks of one image are expected to be, higher = ask first; about 0 to 1.25.

    Parameters:
        predicted_iou: (K,) of all distinct objects, in [0, 1], those that are not shown among them.
        shown: (K,) whether each is shown; all where it is None. One that is not has to be marked: its error is 1.
        wanted: (K,) probability that the project wants each; NaN or None where that is not learnt.
        label: (K,) probability of the label each is shown with; NaN or None where there is nothing to mistake.
        uncovered: share of the image, 0..1, that no *shown* mask covers.

    An object counts by how likely it is there and wanted (the square of its predicted IoU times `wanted`), with the
    error of its mask and of its label. So an image is not asked first for having many objects, nor last for showing
    none: one without any object comes first.
    """
    iou = np.clip(np.asarray(predicted_iou, np.float64), 0.0, 1.0)
    there = (iou * _known_or_one(wanted, len(iou))) ** 2
    error = 1.0 - iou * _known_or_one(label, len(iou))
    if shown is not None:
        error = np.where(shown, error, 1.0)
    total = float(there.sum())
    mean = float(there @ error) / total if total > 1e-9 else 1.0
    return mean + UNCOVERED_WEIGHT * uncovered


def expected_gap(gap: Floats, predicted_iou: Floats, wanted: Floats | None = None) -> float:
    """Gaps of one image summed over the objects that are expected in it, not over those shown, higher = ask first.

    `gap` (K,) of all distinct candidates; each counts by how likely it is there and wanted, as in `expected_error`.
    Negative gaps count as none. 0 without candidates.
    """
    there = np.clip(np.asarray(predicted_iou, np.float64), 0, 1) * _known_or_one(wanted, len(predicted_iou))
    return float(there @ np.clip(np.asarray(gap, np.float64), 0, None))


def _known_or_one(values: Floats | None, count: int) -> Float64s:
    if values is None:
        return np.ones(count)
    known = np.asarray(values, np.float64)
    if known.shape != (count,):
        raise UsamError(f"{count} probabilities, one an object", f"shape {known.shape}", "pass the same objects")
    return np.where(np.isnan(known), 1.0, known)


def image_acquisition(
    strategy: str,
    scores: Mapping[str, Floats],
    samscore: Floats,
    predicted_iou: Floats,
    shown: Indices,
    *,
    rule: str = "expected",
    quality: str = "",
    distinct: Indices | None = None,
    wanted: Floats | None = None,
    label: Floats | None = None,
    uncovered: float = 1.0,
    top: int = 3,
) -> float:
    """What a person's answer about one image is worth by any strategy but `random`, higher = ask first.

    Parameters:
        scores, samscore, quality: of all K candidates, as `object_scores` takes them.
        predicted_iou, wanted, label, uncovered: of all K candidates, as `expected_error` takes them.
        shown: rows of the candidates that are shown.
        distinct: rows of those that are objects of their own, shown or not, and no parts of others; None takes all.
        rule: `expected` sums over the objects that are expected there (`expected_gap`); any of `IMAGE_RULES` takes
            those shown alone (`image_score`).

    `expected-error` heeds no rule. Raises `HeadsError` and `UsamError` as `object_scores` does.
    """
    if strategy == "expected-error":
        rows = np.arange(len(predicted_iou)) if distinct is None else distinct
        return expected_error(
            predicted_iou[rows],
            shown=np.isin(rows, shown),
            wanted=None if wanted is None else wanted[rows],
            label=None if label is None else label[rows],
            uncovered=uncovered,
        )
    objects = object_scores(scores, samscore, strategy, quality=quality)
    if rule == "expected":
        return expected_gap(objects, predicted_iou, wanted)
    return image_score(objects[shown], rule, top=top)


def random_acquisition(task_ids: Sequence[object], seed: int) -> Float64s:
    """Acquisition of N tasks in random order, (N,), uniform over tasks whatever is in them, and the same every time."""
    return stable_uniform(task_ids, seed, "random")
