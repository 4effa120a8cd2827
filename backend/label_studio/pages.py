"""Lists of Label Studio, page by page: each row once, and around what Label Studio itself cannot tell.

Label Studio stores what it cannot write out again, such as half of a surrogate pair in a region's id, and answers 500
to each page with it from then on. One such row is found, and left out by name; the others are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from backend.errors import LabelStudioError
from backend.label_studio.http import AnswerTooLarge, items
from backend.label_studio.records import Json, number

PAGE = 512
_BROKEN = 500
"""The status of a page that Label Studio cannot write; others say that it, or a proxy, does not answer now."""
_log = logging.getLogger(__name__)


class Repeats:
    """Finds out who answers the same rows without end."""

    def __init__(self, what: str) -> None:
        self._what, self._seen = what, set[str]()

    def new(self, rows: Sequence[Json]) -> list[Json]:
        """Those of these rows that have not come before."""
        found = [row for row in rows if _name(row) not in self._seen]
        self._seen |= {_name(row) for row in rows}
        return found

    def go_on(self, new: Sequence[Json]) -> None:
        """Raise `LabelStudioError` where a page had nothing `new`, though there should be more behind it."""
        if not new:
            got = "none that is new"
            raise LabelStudioError(f"further {self._what}, which Label Studio tells of", got, "try again later")


def read_tasks(ask: Callable[..., Json], unreadable: list[int] | None = None) -> Iterator[Json]:
    """All tasks that `ask(page=, page_size=, ...)` tells of, in its order. Those that Label Studio cannot tell are
    named in the log, and added to `unreadable`.

    Raises `LabelStudioError` where Label Studio does not answer, or the list stops before its end.
    """
    offset, largest, size, bounded = 0, PAGE, PAGE, False
    repeats = Repeats("tasks")
    while True:
        size = next(part for part in range(min(size, largest), 0, -1) if offset % part == 0)
        page = {"page": offset // size + 1, "page_size": size}
        try:
            answer = ask(**page)
        except LabelStudioError as error:
            too_large = isinstance(error, AnswerTooLarge)
            if (not too_large and error.status != _BROKEN) or (too_large and size == 1):
                raise
            if bounded and size > 1:
                size //= 2
                largest = size if too_large else largest
                continue
            rows, total = _rows(ask(**page, include="id"))  # it answers, so it is one of these
            if not rows:
                return
            bounded = True
            if size > 1:
                is_cut = len(rows) < size and offset + len(rows) < total  # by a bound of Label Studio's own
                size = len(rows) if is_cut else max(len(rows) // 2, 1)
                largest = size if is_cut or too_large else largest
            else:
                _log.warning("task %s is left out: %s", rows[0].get("id"), error)
                if unreadable is not None:
                    unreadable.append(number(rows[0].get("id"), "task id"))
                offset, size = offset + 1, 2
            continue
        rows, total = _rows(answer)
        new = repeats.new(rows)
        yield from new
        offset += len(rows)
        if offset >= total:
            return
        repeats.go_on(new)
        if len(rows) < size:
            largest = len(rows)
        size = 2 * size


def _rows(answer: Json) -> tuple[list[Json], int]:
    """The tasks of a page, and how many there are in all."""
    return items(answer.get("tasks", []), "tasks"), number(answer.get("total", 0), "task count")


def _name(row: Json) -> str:
    return str(row.get("id"))[:40]
