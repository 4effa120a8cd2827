"""What goes into a column comes out of it, also where a database cannot hold it as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sqlalchemy.dialects import sqlite

from backend.store.columns import HalfFloats, JsonText, Known, Numbers

DIALECT = sqlite.dialect()


@pytest.mark.parametrize("value", [None, {"a": [1, 2.5, None, "ü"]}, [], "x", False])
def test_json_comes_back_as_it_was(value: object) -> None:
    column = JsonText()
    assert column.process_result_value(column.process_bind_param(value, DIALECT), DIALECT) == value


def test_whole_numbers_come_back_as_a_tuple() -> None:
    column = Numbers()
    assert column.process_result_value(column.process_bind_param([3, 1], DIALECT), DIALECT) == (3, 1)


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_half_floats_come_back_in_their_shape(shape: tuple[int, ...]) -> None:
    array = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float16).reshape(shape)
    column = HalfFloats(*shape[:-1])
    stored = column.process_bind_param(array, DIALECT)
    assert len(stored) == 2 * array.size
    back = column.process_result_value(stored, DIALECT)
    assert back.dtype == np.float16
    np.testing.assert_array_equal(back, array)


def test_a_number_that_is_not_known_is_no_number_in_the_store_and_none_outside() -> None:
    column = Known()
    assert column.process_bind_param(math.nan, DIALECT) is None
    assert math.isnan(column.process_result_value(None, DIALECT))
    assert column.process_result_value(column.process_bind_param(0.0, DIALECT), DIALECT) == 0.0


@pytest.mark.parametrize("value", ["", "{", "nonsense", '["x"]', "[" * 10_000, "3", b"\0"])
def test_a_damaged_row_is_an_empty_one_and_harms_no_other(value: str) -> None:
    assert JsonText(dict).process_result_value(value, DIALECT) == {}
    assert Numbers().process_result_value(value, DIALECT) == ()
    assert isinstance(JsonText(list).process_result_value(value, DIALECT), list)


def test_half_floats_that_are_cut_off_have_no_width() -> None:
    assert HalfFloats(4).process_result_value(b"\0" * 7, DIALECT).shape == (4, 0)
    assert HalfFloats().process_result_value(b"\0" * 7, DIALECT).shape == (0,)
