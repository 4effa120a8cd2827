"""How predictions are cut into requests: each short enough that whoever waits for Label Studio hardly notices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backend.errors import LabelStudioError

HOLD_S = 0.5
"""How long one request should keep Label Studio busy."""
FIRST, LEAST = 200, 50
BYTES, MOST_BYTES = 4 * 1024 * 1024, 64 * 1024 * 1024
"""Of one request: each byte is held several times while it is sent."""


class BatchSize:
    """How many items go into the next request, learnt from how long those before took.

    A request costs a fixed time and a time for each item. Where the fixed one alone is longer than `HOLD_S` (Label
    Studio counts all tasks of a project again after each import, unless it is told not to), small requests only make
    it worse, and what is left goes in few big ones of `most`. `seconds` is what the last one took.

    >>> size = BatchSize(most=20_000)
    >>> size.next
    200
    >>> size.took(200, 0.1)
    >>> size.next
    800
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._past: tuple[int, float] | None = None
        self.next, self.bytes, self.seconds = min(FIRST, most), BYTES, 0.0

    def took(self, count: int, seconds: float) -> None:
        """Learn that a request of `count` items took `seconds`."""
        self.seconds, fixed, each = seconds, 0.0, max(seconds, 1e-6) / count
        if self._past is not None and self._past[0] != count:
            before, earlier = self._past
            each = max((seconds - earlier) / (count - before), 1e-7)
            fixed = max(seconds - each * count, 0.0)
        self._past = count, seconds
        if fixed > HOLD_S:
            self.next, self.bytes = self._most, MOST_BYTES
            return
        wanted = int((HOLD_S - fixed) * 0.8 / each)
        self.bytes = BYTES
        self.next = min(max(min(wanted, 4 * count), LEAST), self._most)


def serialised(items: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Predictions as JSON. Raises `LabelStudioError` for one without a finite number as its score."""
    for item in items:
        try:
            data = json.dumps(item, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            task = item.get("task")
            raise LabelStudioError("finite numbers in a prediction", f"one without, task {task}") from error
        score = item.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise LabelStudioError("a number as a prediction's score", repr(score), f"see task {item.get('task')}")
        yield data


def batches(items: Iterable[Mapping[str, Any]], size: BatchSize) -> Iterator[list[bytes]]:
    """Serialised items, `size.next` at a time and about `size.bytes` at most."""
    part: list[bytes] = []
    length = 0
    for data in serialised(items):
        if part and (len(part) >= size.next or length + len(data) > size.bytes):
            yield part
            part, length = [], 0
        part.append(data)
        length += len(data)
    if part:
        yield part
