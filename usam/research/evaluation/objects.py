"""The objects that heads are judged on: what was true, what each measure said, and what refinement would
bring.

Legend: N objects, three multimask outputs. Measures are (N,), high = refine first; IoUs lie in [0, 1].

The four uses of UncertainSAM (arXiv 2505.05049), each a `before` and an `after`:

    model    best of three of the small model  ->  best of three of the large one
    prompt   best of three with one point      ->  best of three with eight
    task     the mask of highest SamScore      ->  best of three
    truth    best of three                     ->  the truth (IoU 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import HeadsError, TokensError
from usam.heads.head_set import HeadSet
from usam.research.tokens import TokenTable
from usam.research.tokens.examples import common_models, qualified_groups
from usam.training.targets import best_iou, head_targets, picked_iou

Floats = npt.NDArray[np.floating[Any]]
ENTROPIES = ("h_std", "h_a", "h_xp", "h_theta", "h_t", "h_y")
USES = ("model", "prompt", "task", "truth")
COSTS = {
    "USAM": "none",
    "USAM IoU": "none",
    "SamScore": "none",
    "SamScore of best": "the truth",
    "h_std": "none",
    "h_a": "none",
    "h_xp": "8 prompts",
    "h_theta": "all models",
    "h_t": "5 images more",
    "h_y": "all of these",
    "random": "none",
    "oracle": "the truth",
}
"""What a measure costs beside one decoded prompt."""


@dataclass(frozen=True)
class Use:
    """One use: IoU without and with refinement, (N,), and the measures, {name: (N,)}."""

    name: str
    before: Floats
    after: Floats
    measures: dict[str, Floats]


@dataclass(frozen=True)
class Objects:
    """Everything known of N objects under one model and its heads.

    iou, samscore (N, 3) of the three outputs; predictions, truths {head: (N, 3)} with gaps as served
    (centred at 0); entropies {name: (N, 3)}; before and after by use; groups (N,).
    """

    model: str
    quality: str
    iou: Floats
    samscore: Floats
    predictions: dict[str, Floats]
    truths: dict[str, Floats]
    entropies: dict[str, Floats]
    gains: dict[str, tuple[Floats, Floats]]
    groups: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.groups)

    def use(self, name: str) -> Use:
        """One use with the measures that exist for it: USAM's own, predicted IoU, SamScore, entropies.

        No measure but the one that says so knows the truth: a gap is its head's mean over the three
        outputs, predicted IoU and SamScore are the highest of the three, entropy is that of the mask of
        highest SamScore. `SamScore of best` is SamScore where it is told which of the three is best.
        """
        before, after = self.gains[name]
        row = np.arange(len(self))
        predicted = 1 - self.predictions[self.quality].max(axis=1)
        measures: dict[str, Floats] = {}
        if name == "truth":
            measures["USAM"] = predicted
        else:
            if f"{name}_gap" in self.predictions:
                measures["USAM"] = self.predictions[f"{name}_gap"].mean(axis=1)
            measures["USAM IoU"] = predicted
        measures["SamScore"] = 1 - self.samscore.max(axis=1)
        measures["SamScore of best"] = 1 - self.samscore[row, self.iou.argmax(axis=1)]
        pick = self.samscore.argmax(axis=1)
        measures |= {entropy: values[row, pick] for entropy, values in self.entropies.items()}
        return Use(name, before, after, measures)

    @property
    def uses(self) -> tuple[str, ...]:
        """The uses that the table's models allow."""
        return tuple(name for name in USES if name in self.gains)


def read_objects(
    tables: Sequence[TokenTable],
    heads: HeadSet,
    *,
    model: str | None = None,
    small: str | None = None,
    large: str | None = None,
    unseen_by: frozenset[str] = frozenset(),
) -> tuple[Objects, int]:
    """Score the tables' objects with the heads. Also returns how many objects were left out as seen in
    training.

    `model` is whose tokens are read, by default the heads' checkpoint; `small` and `large` are the models
    of the model gap, by default the table's first and last. Objects of the groups `unseen_by` are left out.
    Raises `HeadsError` where the heads fit no model of the table, `TokensError` where no object remains.
    """
    names = common_models(tables)
    model = model or next((name for name in reversed(names) if heads.fits(name)), names[-1])
    if not heads.fits(model):
        raise HeadsError(f"heads of {model}", f"heads of {heads.checkpoint}", "name the model they are for")
    quality = heads.quality_for(model)
    if quality is None:
        raise HeadsError("a head set that names the head of its own IoU", repr(heads), "train one with usam train")
    parts = [_read(table, heads, model, quality, small or names[0], large or names[-1], unseen_by) for table in tables]
    objects = _joined([part for part, _ in parts])
    if not len(objects):
        raise TokensError("objects that the heads have not seen", "none", "make tokens of other images")
    return objects, sum(left_out for _, left_out in parts)


def _read(
    table: TokenTable,
    heads: HeadSet,
    model: str,
    quality: str,
    small: str,
    large: str,
    unseen_by: frozenset[str],
) -> tuple[Objects, int]:
    groups = qualified_groups(table)
    keep = ~np.isin(groups, sorted(unseen_by)) if unseen_by else np.ones(len(groups), bool)
    columns = ["iou", "samscore", "dense_iou", "iou_token", "mask_tokens"]
    entropies = ENTROPIES if table.entropies else ()
    arrays = {name: values[keep] for name, values in table.arrays(model, [*columns, *entropies]).items()}
    best = {name: best_iou(table.arrays(name, ["iou"])["iou"])[keep] for name in (small, large)}
    own, dense = best_iou(arrays["iou"]), best_iou(arrays["dense_iou"])
    gains: dict[str, tuple[Floats, Floats]] = {
        "prompt": (own, dense),
        "task": (picked_iou(arrays["iou"], arrays["samscore"]), own),
        "truth": (own, np.ones_like(own)),
    }
    if small != large:
        gains["model"] = (best[small], best[large])
    offset = {name: 0.5 if name.endswith("_gap") else 0.0 for name in heads.names}
    targets = head_targets(table, model, small=small, large=large)
    objects = Objects(
        model,
        quality,
        arrays["iou"][:, 1:],
        arrays["samscore"][:, 1:],
        scores_of(heads, arrays["iou_token"], arrays["mask_tokens"]),
        {name: values[keep] - offset[name] for name, values in targets.items() if name in offset},
        {name: arrays[name] for name in entropies},
        gains,
        groups[keep],
    )
    return objects, int((~keep).sum())


def scores_of(heads: HeadSet, iou_token: Floats, mask_tokens: Floats, chunk: int = 4096) -> dict[str, Floats]:
    """{head: (N, 3)} for any number of objects, in chunks."""
    parts = [
        heads.score(
            iou_token[start : start + chunk].astype(np.float32), mask_tokens[start : start + chunk].astype(np.float32)
        )
        for start in range(0, len(iou_token), chunk)
    ]
    return {
        name: np.concatenate([part[name] for part in parts]) if parts else np.empty((0, 3), np.float32)
        for name in heads.names
    }


def _joined(parts: Sequence[Objects]) -> Objects:
    first = parts[0]
    entropies = set.intersection(*(set(part.entropies) for part in parts))

    def join(field: str, names: Sequence[str]) -> dict[str, Floats]:
        return {name: np.concatenate([getattr(part, field)[name] for part in parts]) for name in names}

    return Objects(
        first.model,
        first.quality,
        np.concatenate([part.iou for part in parts]),
        np.concatenate([part.samscore for part in parts]),
        join("predictions", list(first.predictions)),
        join("truths", list(first.truths)),
        join("entropies", [name for name in ENTROPIES if name in entropies]),
        {
            name: (
                np.concatenate([part.gains[name][0] for part in parts]),
                np.concatenate([part.gains[name][1] for part in parts]),
            )
            for name in first.gains
        },
        np.concatenate([part.groups for part in parts]),
    )
