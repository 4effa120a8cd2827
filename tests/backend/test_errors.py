"""Errors say in one line what was expected, what came and what to do, and which of them concern one item alone."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from backend import errors
from backend.errors import (
    ITEM_ERRORS,
    BackendError,
    EngineBusy,
    FetchError,
    LabelStudioError,
    PluginUnavailable,
    StoreError,
    TokenError,
    reason_of,
)
from usam.errors import UsamError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, UsamError)]


def test_whoever_catches_the_librarys_error_catches_every_error_of_the_service() -> None:
    assert len(KINDS) > 15
    assert all(issubclass(kind, BackendError) for kind in KINDS if kind is not UsamError)


def test_the_tree_in_the_docstring_names_every_kind_and_no_other() -> None:
    drawn = re.findall(r"[`|]- (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in KINDS if kind is not UsamError)


def test_an_error_says_what_was_expected_what_came_and_what_to_do() -> None:
    text = str(StoreError("a store that opens", "OperationalError", "check the folder's rights"))
    places = [text.index(part) for part in ("a store that opens", "OperationalError", "check the folder's rights")]
    assert places == sorted(places)


def test_what_a_caller_decides_by_is_kept() -> None:
    assert EngineBusy("room", "none", "wait", retry_after=7.5).retry_after == 7.5
    assert EngineBusy("room").retry_after > 0
    refused = TokenError("a token", status=401, is_from_label_studio=True)
    assert (refused.status, refused.is_from_label_studio) == (401, True)
    assert LabelStudioError("an answer").status == 0
    assert issubclass(PluginUnavailable, ImportError)


def test_a_reason_is_our_own_words_or_the_kind_and_first_line_of_others() -> None:
    ours = FetchError("an image", "HTTP 404", "check the address")
    assert reason_of(ours) == str(ours)
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(KeyError()) == "KeyError: "
    assert len(reason_of(ValueError("x" * 9999))) < 400
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"a": "secret"})
    assert reason_of(caught.value).startswith("a: Input should be a valid integer")
    assert "secret" not in reason_of(caught.value)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ValueError("x"), json.JSONDecodeError("x", "", 0), ZeroDivisionError(), FetchError("an image")],
)
def test_what_a_bad_item_raises_sets_that_item_aside(error: Exception) -> None:
    assert isinstance(error, ITEM_ERRORS)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ConnectionError(), MemoryError(), KeyboardInterrupt()])
def test_what_would_hit_every_item_stops_the_work(error: BaseException) -> None:
    assert not isinstance(error, ITEM_ERRORS)
