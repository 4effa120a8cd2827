"""Lists are read whole, each row once, around rows that Label Studio itself cannot write out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from backend.errors import LabelStudioError
from backend.label_studio import pages
from backend.label_studio.http import AnswerTooLarge
from backend.label_studio.pages import read_tasks


class Studio:
    """Tasks 1 to `count`, in pages of at most `bound`; a page with one of `broken` is answered with 500, one of more
    than `room` tasks is too large."""

    def __init__(self, count: int, broken: set[int], *, bound: int = 10**6, room: int = 10**6) -> None:
        self.tasks, self.broken = list(range(1, count + 1)), broken
        self.bound, self.room, self.asked = bound, room, 0

    def __call__(self, *, page: int, page_size: int, include: str = "all") -> dict[str, Any]:
        self.asked += 1
        size = min(page_size, self.bound)
        found = self.tasks[(page - 1) * size : page * size]
        if include == "all" and self.broken & set(found):
            raise LabelStudioError("success", "HTTP 500", "try again later", status=500)
        if include == "all" and len(found) > self.room:
            raise AnswerTooLarge("fewer bytes", "more", "ask for less")
        return {"tasks": [{"id": task} for task in found], "total": len(self.tasks)}


def read(studio: Studio) -> tuple[list[int], list[int]]:
    unreadable: list[int] = []
    return [row["id"] for row in read_tasks(studio, unreadable)], unreadable


@given(
    some.integers(0, 60),
    some.sets(some.integers(1, 60), max_size=8),
    some.integers(1, 20),
    some.integers(1, 20),
    some.integers(1, 17),
)
def test_all_that_can_be_told_is_read_once(count: int, broken: set[int], bound: int, room: int, page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE", page)
        found, unreadable = read(Studio(count, broken, bound=bound, room=room))
    there = set(range(1, count + 1))
    assert found == sorted(there - broken)
    assert unreadable == sorted(there & broken)


def test_one_row_of_many_costs_few_requests() -> None:
    studio = Studio(5000, {3333})
    found, unreadable = read(studio)
    assert (len(found), unreadable) == (4999, [3333])
    assert studio.asked < 50


def test_a_label_studio_that_answers_nothing_is_given_up() -> None:
    asked = []

    def down(**page: Any) -> dict[str, Any]:
        asked.append(page)
        raise LabelStudioError("success", "HTTP 500", "try again later", status=500)

    with pytest.raises(LabelStudioError, match="500"):
        list(read_tasks(down))
    assert len(asked) < 15
    with pytest.raises(LabelStudioError, match="503"):
        list(read_tasks(lambda **_: (_ for _ in ()).throw(LabelStudioError("success", "HTTP 503", "", status=503))))
