"""Kinds of columns that the tables need and no database has."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_log = logging.getLogger(__name__)
Float16s = npt.NDArray[np.float16]


class JsonText(TypeDecorator[Any]):
    """What JSON can say, as text; of one `kind`, where one is given: a damaged row then has an empty one, so that the
    others can be read."""

    impl, cache_ok = sql.Text, True

    def __init__(self, kind: type | None = None) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str:
        return json.dumps(value, separators=(",", ":"), sort_keys=True, default=_plain)

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Any:
        try:
            found = json.loads(value) if value is not None else None
        except (ValueError, TypeError, RecursionError):
            _log.warning("a row holds no JSON where it should: %.40r", value)
            found = None
        return found if self.kind is None or isinstance(found, self.kind) else self.kind()


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them, what else it does not know as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)[:200]


class Numbers(JsonText):
    """A tuple of whole numbers, as text."""

    cache_ok = True

    def process_result_value(self, value: str | None, _dialect: Dialect) -> tuple[int, ...]:
        found = super().process_result_value(value, _dialect)
        return tuple(one for one in found if isinstance(one, int)) if isinstance(found, list) else ()


class HalfFloats(TypeDecorator[Float16s]):
    """An array of half floats: (D,), or (rows, D); of width 0 where a row is damaged."""

    impl, cache_ok = sql.LargeBinary, True

    def __init__(self, *rows: int) -> None:
        super().__init__()
        self.rows = rows

    def process_bind_param(self, value: Float16s | None, _dialect: Dialect) -> bytes:
        return np.asarray(value, "<f2").tobytes()

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> Float16s:
        content = value or b""
        whole = len(content) % (2 * math.prod(self.rows)) == 0
        return np.frombuffer(content if whole else b"", "<f2").astype(np.float16).reshape(*self.rows, -1)


class Known(TypeDecorator[float]):
    """A number, NaN where it is not known."""

    impl, cache_ok = sql.Float, True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, _dialect: Dialect) -> float:
        return math.nan if value is None else value
