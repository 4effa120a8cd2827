"""Kinds of columns that the tables need and no database has."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

Float16s = npt.NDArray[np.float16]


class JsonText(TypeDecorator[Any]):
    """Anything that JSON can say, as text."""

    impl, cache_ok = sql.Text, True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str:
        return json.dumps(value, separators=(",", ":"), sort_keys=True)

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Any:
        return json.loads(value) if value is not None else None


class Numbers(JsonText):
    """A tuple of whole numbers, as text."""

    cache_ok = True

    def process_result_value(self, value: str | None, _dialect: Dialect) -> tuple[int, ...]:
        return tuple(super().process_result_value(value, _dialect))


class HalfFloats(TypeDecorator[Float16s]):
    """An array of half floats: (D,), or (rows, D)."""

    impl, cache_ok = sql.LargeBinary, True

    def __init__(self, *rows: int) -> None:
        super().__init__()
        self.rows = rows

    def process_bind_param(self, value: Float16s | None, _dialect: Dialect) -> bytes:
        return np.asarray(value, "<f2").tobytes()

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> Float16s:
        return np.frombuffer(value or b"", "<f2").astype(np.float16).reshape(*self.rows, -1)


class Known(TypeDecorator[float]):
    """A number, NaN where it is not known."""

    impl, cache_ok = sql.Float, True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, _dialect: Dialect) -> float:
        return math.nan if value is None else value
