"""What the heads are trained on: a target for each of the three multimask outputs of each object.

Legend: N objects. Definitions of UncertainSAM (arXiv 2505.05049), "best" = highest IoU with the truth:

    iou_<model>       of the table's own model: the IoU of that output's mask; of another: of its best mask
    iou_dense_prompt  the best IoU with 8 points
    iou_unsupervised  the IoU of the mask with the highest SamScore
    model_gap         best IoU of the large model - best IoU of the small one
    prompt_gap        best IoU with 8 points - best IoU with one
    task_gap          best IoU - IoU of the mask with the highest SamScore

Gaps are stored as 0.5 + gap. All but the first are about the object and the same for its three outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from usam.errors import TokensError

Float32 = npt.NDArray[np.float32]

MULTIMASK = slice(1, 4)
_FAMILIES = ("sam2.1_hiera_", "sam2_hiera_")


def head_name(model: str) -> str:
    """The head that predicts a model's IoU: 'iou_tiny' for sam2.1_hiera_tiny, 'iou_nano_s' for nano-s."""
    for family in _FAMILIES:
        model = model.removeprefix(family)
    return "iou_" + model.replace("-", "_").replace(".", "_")


def best_iou(iou: Float32) -> Float32:
    """(N,) the highest IoU of outputs 1..3 out of (N, 4)."""
    return np.asarray(iou[:, MULTIMASK].max(axis=1), np.float32)


def picked_iou(iou: Float32, samscore: Float32) -> Float32:
    """(N,) the IoU of the output among 1..3 with the highest SamScore, both (N, 4)."""
    pick = samscore[:, MULTIMASK].argmax(axis=1)
    return np.asarray(iou[np.arange(len(iou)), pick + 1], np.float32)


class Table(Protocol):
    """What is read of a table of tokens."""

    @property
    def model_names(self) -> tuple[str, ...]: ...

    def arrays(self, model: str, columns: Sequence[str] | None = None) -> Mapping[str, npt.NDArray[Any]]: ...


def head_targets(table: Table, model: str, *, small: str | None = None, large: str | None = None) -> dict[str, Float32]:
    """head -> (N, 3) float32 in [0, 1], for the tokens of `model`.

    `small` and `large` are the models that `model_gap` compares, without them the first and the last of the
    table; a table of one model has no model_gap. Raises `TokensError` for a model that is not in the table.
    """
    names = table.model_names
    small, large = small or names[0], large or names[-1]
    figures = {name: table.arrays(name, ["iou", "samscore"]) for name in dict.fromkeys([*names, small, large, model])}
    best = {name: best_iou(columns["iou"]) for name, columns in figures.items()}
    picked = picked_iou(figures[model]["iou"], figures[model]["samscore"])
    dense = best_iou(table.arrays(model, ["dense_iou"])["dense_iou"])

    targets: dict[str, Float32] = {head_name(name): _three(best[name]) for name in names}
    if len(targets) < len(names):
        raise TokensError("models whose heads have different names", ", ".join(names), "make a table for each")
    targets[head_name(model)] = figures[model]["iou"][:, MULTIMASK].astype(np.float32)
    targets["iou_dense_prompt"] = _three(dense)
    targets["iou_unsupervised"] = _three(picked)
    if small != large:
        targets["model_gap"] = _three(0.5 + best[large] - best[small])
    targets["prompt_gap"] = _three(0.5 + dense - best[model])
    targets["task_gap"] = _three(0.5 + best[model] - picked)
    return targets


def _three(values: Float32) -> Float32:
    return np.repeat(values.clip(0, 1).astype(np.float32)[:, None], 3, axis=1)
