"""Which of SAM's three masks to show: the one SAM scores highest, or the one whose predicted IoU is highest.

Legend: N objects, M = 3 multimask outputs. The gain of an object is the true IoU of the mask that predicted IoU picks
minus that of the mask SamScore picks; higher = better.

Predicted IoU usually picks better, but heads that know other kinds of images may pick worse; so the gain is measured on
labelled objects that the heads have not learned from, and an interval that lies below 0 switches the choice off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from usam.active.refinement import Gain
from usam.errors import UsamError

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

MaskSelection = Literal["predicted-iou", "samscore"]
Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]


def picked(measure: Floats, iou: Floats) -> Float64s:
    """(N,) the `iou` (N, M) of the mask of the highest `measure` (N, M), the first of several."""
    if measure.shape != iou.shape or measure.ndim != 2:
        raise UsamError("measure and IoU (N, M)", f"{measure.shape} and {iou.shape}", "pass the same masks")
    return np.asarray(np.take_along_axis(iou, measure.argmax(axis=1)[:, None], axis=1)[:, 0], np.float64)


def choice_gains(heads: HeadSet, checkpoint: str, batch: Mapping[str, Any]) -> Float64s:
    """(N,) gain of each object of a training batch (iou_token (N, D), mask_tokens (N, 4, D), targets {head: (N, M)}).

    NaN where its IoUs are not known. All NaN for heads that predict no IoU of this checkpoint.
    """
    name = heads.quality_for(checkpoint)
    targets = batch["targets"]
    if name is None or name not in targets or "iou_unsupervised" not in targets:
        return np.full(len(batch["iou_token"]), np.nan)
    predicted = heads.subset([name]).score(batch["iou_token"], batch["mask_tokens"])[name]
    return picked(predicted, targets[name]) - np.asarray(targets["iou_unsupervised"], np.float64)[:, 0]


def choice_gain(gains: Floats, groups: npt.NDArray[Any], seed: int = 0) -> Gain:
    """The mean gain with its interval over groups (N,), of the objects whose gain is known."""
    known = np.isfinite(gains)
    return Gain.of(gains[known], np.asarray(groups)[known], seed)


def decide(gain: Gain | None, before: MaskSelection = "predicted-iou") -> MaskSelection:
    """What to choose by: what a measured gain says, and while it says nothing, what was chosen by `before`."""
    if gain is None or gain.pays is None:
        return before
    return "predicted-iou" if gain.pays else "samscore"
