"""Examples for heads out of one or more token tables.

Legend: N rows (objects), D token width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TokensError
from usam.files import replace_text
from usam.research.tokens import TokenTable
from usam.training.split import Split
from usam.training.targets import head_name, head_targets

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Examples:
    """Tokens of one model and the targets of its heads.

    iou_token (N, D), mask_tokens (N, 4, D) float16; targets {head: (N, 4)} in [0, 1] for outputs 0 to 3;
    groups (N,), 'data set/group'; `source` says in JSON values what they were made of.
    """

    model: str
    iou_token: npt.NDArray[np.float16]
    mask_tokens: npt.NDArray[np.float16]
    targets: dict[str, npt.NDArray[np.float32]]
    groups: npt.NDArray[np.str_]
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, rows: npt.NDArray[Any]) -> Examples:
        """Some rows, by index or flag."""
        targets = {head: values[rows] for head, values in self.targets.items()}
        return replace(
            self,
            iou_token=self.iou_token[rows],
            mask_tokens=self.mask_tokens[rows],
            targets=targets,
            groups=self.groups[rows],
        )


def common_models(tables: Sequence[TokenTable]) -> tuple[str, ...]:
    """The models of all tables. Raises `TokensError` where they differ, in order too."""
    if not tables:
        raise TokensError("at least one token table", "none", "make one with usam tokens")
    first = tables[0].model_names
    for table in tables[1:]:
        if table.model_names != first:
            raise TokensError(
                f"tables of the models {', '.join(first)}", ", ".join(table.model_names), "make them alike"
            )
    return first


def qualified_groups(table: TokenTable) -> npt.NDArray[np.str_]:
    """'data set/group' of each row, (N,), distinct over tables."""
    texts = table.texts()
    return np.array([f"{name}/{group}" for name, group in zip(texts["dataset"], texts["group"], strict=True)], np.str_)


def read_examples(
    tables: Sequence[TokenTable], model: str, *, small: str | None = None, large: str | None = None
) -> Examples:
    """Join the tables' rows for one model. Raises `TokensError` where the tables do not fit together."""
    common_models(tables)
    arrays = [table.arrays(model, ["iou_token", "mask_tokens", "iou"]) for table in tables]
    targets = [head_targets(table, model, small=small, large=large) for table in tables]
    own = head_name(model)
    for part, columns in zip(targets, arrays, strict=True):
        for head, values in part.items():
            # all heads but the own IoU's are about the object, whatever the output
            single = columns["iou"][:, :1].clip(0, 1) if head == own else values[:, :1]
            part[head] = np.concatenate([single, values], axis=1)
    groups = [qualified_groups(table) for table in tables]
    datasets: Counter[str] = Counter()
    for table in tables:
        datasets.update(table.texts()["dataset"].tolist())
    manifests = [table.manifest for table in tables]
    source = {
        "objects": dict(datasets),
        "models": dict(manifests[0].models),
        "tokens": [manifest.fingerprint for manifest in manifests],
        "parts": sorted({manifest.settings.part or "all" for manifest in manifests}),
    }
    return Examples(
        model,
        np.concatenate([part["iou_token"] for part in arrays]),
        np.concatenate([part["mask_tokens"] for part in arrays]),
        {head: np.concatenate([part[head] for part in targets]) for head in targets[0]},
        np.concatenate(groups),
        source,
    )


def write_split(
    folder: Path, split: Split | None, groups: npt.NDArray[Any], before: frozenset[str] = frozenset()
) -> Path:
    """Keep, beside a head set, which groups it has seen: {part: [group, ...]}.

    Without a split all `groups` (N,) were learnt from. `before` are the groups that the initial heads had
    seen.
    """
    everything = np.arange(len(groups))
    train, validation, test = (
        (everything, everything[:0], everything[:0]) if split is None else (split.train, split.validation, split.test)
    )
    parts = {"train": train, "validation": validation, "test": test}
    content = {part: sorted(set(np.asarray(groups)[rows].tolist())) for part, rows in parts.items()}
    content["train"] = sorted({*content["train"], *before})
    content["test"] = sorted({*content["test"]} - before)
    path = folder / SPLIT_FILE
    replace_text(path, json.dumps(content, indent=1) + "\n")
    return path


def seen_groups(folder: Path) -> frozenset[str]:
    """Groups that trained or stopped the heads of a folder; empty where it does not say. Raises
    `TokensError`.
    """
    path = folder / SPLIT_FILE
    if not path.is_file():
        return frozenset()
    try:
        content: Mapping[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(content["train"]) | frozenset(content["validation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TokensError(f"a readable {path}", f"{error!r:.200}", "train the heads again") from error
