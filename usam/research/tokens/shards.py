"""One file of tokens: written whole or not at all.

A shard is a safetensors file: an array per column and model, named '<model>/<column>', the share of the image
that each object takes as 'area', and in its header, as JSON, the names of the rows and what was passed over.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TokensError

TEXT_COLUMNS = ("image_id", "group", "object_id", "dataset", "annotator", "split", "category", "parent_id")


@dataclass
class Shard:
    """Rows of some records.

    texts     a list per name in `TEXT_COLUMNS`, one entry an object
    area      (N,) float32, share of the image
    columns   model -> column -> (N, ...) array
    problems  what was passed over, by kind
    seconds   in forward passes, and all in all
    """

    texts: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TEXT_COLUMNS})
    area: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    columns: dict[str, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    forward_seconds: float = 0.0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.texts["object_id"])


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is, or belongs."""
    return folder / "shards" / f"{number:06d}.safetensors"


def write_shard(path: Path, shard: Shard, fingerprint: str) -> None:
    """Write a shard to a temporary name, to the disk, and then in place."""
    from safetensors.numpy import save

    arrays = {"area": shard.area}
    for model, columns in shard.columns.items():
        arrays |= {f"{model}/{column}": values for column, values in columns.items()}
    header = {
        "fingerprint": fingerprint,
        "rows": json.dumps(shard.texts),
        "problems": json.dumps(shard.problems),
        "seconds": json.dumps([shard.forward_seconds, shard.seconds]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, header))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_header(path: Path) -> Shard:
    """A shard's rows and counts, without its arrays. Raises `TokensError` when it is damaged."""
    header = _header(path)
    try:
        forward, whole = json.loads(header["seconds"])
        return Shard(
            texts=json.loads(header["rows"]),
            problems=Counter(json.loads(header["problems"])),
            forward_seconds=forward,
            seconds=whole,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def fingerprint_of(path: Path) -> str:
    """The make a shard belongs to. Raises `TokensError` when it is damaged."""
    return _header(path).get("fingerprint", "")


def read_columns(path: Path, model: str, columns: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Some columns of a model, and 'area' when it is asked for. Raises `TokensError` when one is not there."""
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(path, "numpy") as file:
            for column in columns:
                name = "area" if column == "area" else f"{model}/{column}"
                found[column] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return found


def columns_in(path: Path, model: str) -> list[str]:
    """The names of a model's columns, sorted."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return sorted(name.removeprefix(f"{model}/") for name in file.keys() if name.startswith(f"{model}/"))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> TokensError:
    return TokensError(f"a shard of tokens in {path}", f"{error!r:.200}", "remove the file and run usam tokens again")
