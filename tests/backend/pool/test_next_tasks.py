"""Who is likely to be shown next: in the order of the ranking, without what is finished or open now."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backend.label_studio.records import Task
from backend.pool import next_tasks
from backend.pool.next_tasks import CACHE_TTL_S, NextTasks
from backend.store import Store
from backend.store.records import ScoreRow


@dataclass
class Row:
    task: int = 0
    data: dict[str, Any] = field(default_factory=dict)


class Ranking:
    """Tasks 5, 4, 3, 2, 1 in this order; `finished` ones are labelled. Counts how often it is read."""

    def __init__(self) -> None:
        self.finished: set[int] = set()
        self.reads = 0

    def ranked_tasks(self, project: int, *, count: int = 24) -> tuple[list[Row], int]:
        self.reads += 1
        rows = [Row(n, {"image": f"{project}-{n}"}) for n in (5, 4, 3, 2, 1) if n not in self.finished]
        return rows[:count], len(rows)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves."""
    now = [1000.0]
    monkeypatch.setattr(next_tasks.time, "monotonic", lambda: now[0])
    return now


def numbers(found: list[tuple[int, dict[str, Any]]]) -> list[int]:
    return [task for task, _ in found]


def test_the_next_tasks_come_in_order_with_their_data_and_without_the_one_that_is_open(clock: list[float]) -> None:
    ahead = NextTasks(Ranking(), 2)
    assert ahead.after(7, 5) == [(4, {"image": "7-4"}), (3, {"image": "7-3"})]
    assert numbers(ahead.after(7, 3)) == [5, 4]
    assert numbers(ahead.after(7, None)) == [5, 4]


def test_finished_tasks_are_passed_over(clock: list[float]) -> None:
    store = Ranking()
    store.finished = {5, 3}
    assert numbers(NextTasks(store, 9).after(7, 1)) == [4, 2]


def test_a_list_is_read_again_only_when_it_has_aged(clock: list[float]) -> None:
    store = Ranking()
    ahead = NextTasks(store, 2)
    ahead.after(7, None)
    store.finished = {5}
    clock[0] += CACHE_TTL_S
    assert numbers(ahead.after(7, None)) == [5, 4]
    assert store.reads == 1
    clock[0] += 1
    assert numbers(ahead.after(7, None)) == [4, 3]
    assert store.reads == 2


def test_each_project_has_a_list_of_its_own(clock: list[float]) -> None:
    ahead = NextTasks(Ranking(), 1)
    assert ahead.after(7, None) == [(5, {"image": "7-5"})]
    assert ahead.after(8, None) == [(5, {"image": "8-5"})]


def test_who_computes_nothing_ahead_reads_nothing() -> None:
    store = Ranking()
    assert NextTasks(store, 0).after(7, 1) == []
    assert store.reads == 0


def test_an_open_ranking_leaves_out_finished_tasks(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    store.join(3)
    store.record_tasks(3, [Task(n, {"image": f"{n}.png"}, "t", int(n == 1), is_labeled=n == 1) for n in range(1, 5)])
    store.put_scores(3, [ScoreRow(n, "v", 1.0, n / 10, n - 1, False) for n in range(1, 5)])
    assert [(row.task, row.data) for row in store.ranked_tasks(3, count=2)[0]] == [
        (2, {"image": "2.png"}),
        (3, {"image": "3.png"}),
    ]
    store.close()
