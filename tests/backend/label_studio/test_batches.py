"""Requests are as long as Label Studio can answer at once, and long where short ones would not help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend.label_studio import batches
from backend.label_studio.batches import HOLD_S, BatchSize


def taken(fixed: float, each: float, total: int) -> list[tuple[int, float]]:
    """Sizes and seconds of the requests in which `total` items go to a Label Studio with these costs."""
    size, found = BatchSize(most=20_000), list[tuple[int, float]]()
    while total:
        count = min(size.next, total)
        found.append((count, fixed + each * count))
        size.took(*found[-1])
        total -= count
    return found


@pytest.mark.parametrize("each", [0.0002, 0.001, 0.002])
@pytest.mark.parametrize("fixed", [0.0, 0.05, 0.3])
def test_no_request_after_the_first_two_keeps_label_studio_for_longer_than_it_should(fixed: float, each: float) -> None:
    requests = taken(fixed, each, 20_000)
    assert max(seconds for _, seconds in requests[2:]) <= HOLD_S
    assert sum(seconds for _, seconds in requests) < 20_000 * each + fixed * len(requests) + 1e-6
    assert sum(count for count, _ in requests) == 20_000


def test_a_label_studio_that_counts_all_tasks_after_each_import_is_asked_seldom() -> None:
    assert [count for count, _ in taken(5.0, 0.001, 12_000)] == [200, 50, 11_750]
    size = BatchSize(most=20_000)
    small = size.bytes
    size.took(200, 5.2)
    size.took(50, 5.05)
    assert size.bytes > small


def test_one_slow_answer_makes_the_next_request_smaller() -> None:
    size = BatchSize(most=20_000)
    size.took(200, 0.1)
    assert size.next == 800
    size.took(800, 2.0)
    assert 50 <= size.next < 800


def test_a_batch_never_holds_more_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Iterator[Any] = ({"task": n, "score": 0.5} for n in range(5))
    monkeypatch.setattr(batches, "BYTES", 50)
    assert [len(part) for part in batches.batches(rows, BatchSize(most=20_000))] == [2, 2, 1]
