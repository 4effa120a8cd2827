"""A folder of tokens as one table: a row for each object, the same rows for every model.

Legend: N objects, D token width. Columns of a model:

    iou_token       (N, D) float16      tokens for the centre-point prompt
    mask_tokens     (N, 4, D) float16   token m made output m
    iou             (N, 4) float32      IoU of outputs 0..3 with the truth at the image's size, 0..1
    samscore        (N, 4) float32      SAM's own estimate of it
    dense_iou, dense_samscore, box_iou, box_samscore      the same for 8 points, and for a box
    h_std h_a h_xp h_theta h_t h_y      (N, 3) float32, where asked for: entropies of outputs 1..3, in bits

Beside them, the same for all models: image_id, group, object_id, dataset, annotator, split, category,
parent_id (text) and area (N,) float32, the share of the image, 0..1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TokensError
from usam.research.tokens.manifest import Manifest
from usam.research.tokens.shards import (
    TEXT_COLUMNS,
    Shard,
    columns_in,
    fingerprint_of,
    read_columns,
    read_header,
    shard_path,
)


class TokenTable:
    """Tokens on disk; arrays are read when asked for."""

    def __init__(self, folder: Path, manifest: Manifest, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._paths = list(paths)
        self._headers: list[Shard] | None = None

    @classmethod
    def open(cls, folder: str | Path, *, partial: bool = False) -> TokenTable:
        """Open a folder that `usam tokens` wrote.

        Raises `TokensError` when it is none, when a shard is damaged or of another make, or when shards are
        missing; `partial=True` takes what is there.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        paths = [shard_path(folder, number) for number in range(len(manifest.shards))]
        there = [path for path in paths if path.is_file()]
        if not there or (len(there) < len(paths) and not partial):
            raise TokensError(
                f"{len(paths)} shards in {folder}", f"{len(there)}", "run the same usam tokens command to finish"
            )
        for path in there:
            if fingerprint_of(path) != manifest.fingerprint:
                raise TokensError(
                    f"shards of one make in {folder}", f"{path.name} of another", "remove it and run again"
                )
        return cls(folder, manifest, there)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models, in the order in which they were named."""
        return tuple(self.manifest.models)

    @property
    def entropies(self) -> bool:
        """Whether the six entropy columns are there."""
        return self.manifest.settings.entropies

    def __len__(self) -> int:
        return sum(len(header) for header in self._shards())

    @property
    def problems(self) -> Counter[str]:
        """What was passed over when the tokens were made, by kind."""
        return sum((header.problems for header in self._shards()), Counter(self.manifest.dataset["problems"]))

    @property
    def share_outside(self) -> float:
        """Share of the time from masks to columns that was not in forward passes, 0..1; `RunReport` has that of a
        whole run, reading and writing included."""
        whole = sum(header.seconds for header in self._shards())
        forward = sum(header.forward_seconds for header in self._shards())
        return 1 - forward / whole if whole else 0.0

    def texts(self) -> dict[str, npt.NDArray[np.str_]]:
        """The text columns, each (N,)."""
        return {
            name: np.array([text for header in self._shards() for text in header.texts[name]], np.str_)
            for name in TEXT_COLUMNS
        }

    def arrays(self, model: str, columns: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Columns by name (see the module's legend), all of them or only `columns`.

        Raises `TokensError` for a model or column that is not in the table.
        """
        if model not in self.model_names:
            raise TokensError(f"one of {', '.join(self.model_names)}", f"'{model}'", "name a model of the table")
        known = [*columns_in(self._paths[0], model), "area"]
        wanted = [*known, *TEXT_COLUMNS] if columns is None else list(columns)
        if unknown := sorted({*wanted} - {*known, *TEXT_COLUMNS}):
            raise TokensError(f"columns out of {', '.join([*known, *TEXT_COLUMNS])}", ", ".join(unknown))
        numbers = [column for column in wanted if column in known]
        parts = [read_columns(path, model, numbers) for path in self._paths]
        found: dict[str, npt.NDArray[Any]] = {
            column: np.concatenate([part[column] for part in parts]) for column in numbers
        }
        if len(numbers) < len(wanted):
            texts = self.texts()
            found |= {column: texts[column] for column in wanted if column in texts}
        return found

    def _shards(self) -> list[Shard]:
        if self._headers is None:
            self._headers = [read_header(path) for path in self._paths]
        return self._headers
