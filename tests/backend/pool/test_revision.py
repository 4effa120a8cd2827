"""An order becomes another one by few changes, and what was not changed stands where it should."""

from __future__ import annotations

import numpy as np
import pytest

from backend.pool import revision as module
from backend.pool.revision import increasing, revision
from backend.store.records import ScoreRow


def rows(order: list[int], shown: tuple[int, ...] = (0,)) -> list[ScoreRow]:
    return [
        ScoreRow(task, "new", 1.0, (place + 1) / len(order), place, False, shown=shown)
        for place, task in enumerate(order)
    ]


def by_task(order: list[int]) -> dict[int, ScoreRow]:
    return {row.task: row for row in rows(order)}


@pytest.fixture
def any_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SHARE", 1.0)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("seed", range(30))
def test_scores_put_every_order_right_and_unwritten_tasks_keep_theirs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.permutation(40).tolist()
    new = rng.permutation(50)[: rng.integers(1, 50)].tolist()
    before = by_task(old)
    found = revision(before, rows(new), "served")
    assert found is not None
    scores = [row.confidence for row in found.rows]
    assert [row.task for row in found.rows] == new
    assert scores == sorted(set(scores))
    assert scores[0] > 0
    assert scores[-1] <= 1
    written = {row.task for row in found.written}
    for row in found.rows:
        assert row.version == "served"
        if row.task not in written:
            assert row.confidence == before[row.task].confidence


def test_as_few_are_written_as_moved() -> None:
    old = list(range(1000))
    moved = [700, 3, 999]
    new = [999, *[task for task in old if task not in moved], 3]
    new.insert(10, 700)
    found = revision(by_task(old), rows(new), "served")
    assert found is not None
    assert sorted(row.task for row in found.written) in ([3, 700, 999], [3, 700, 998, 999])


def test_what_is_new_or_remade_or_shows_something_else_is_written() -> None:
    old = list(range(100))
    new = rows([*old, 100])
    new[7] = rows([7], shown=(0, 1))[0]
    found = revision(by_task(old), new, "served", remade={20})
    assert found is not None
    assert {row.task for row in found.written} == {7, 20, 99, 100}, "the last makes room for the new one"


def test_an_order_that_changed_too_much_is_written_anew() -> None:
    old = list(range(100))
    assert revision(by_task(old), rows(old[::-1]), "served") is None
    assert revision({}, rows(old), "served") is None


def test_tasks_between_which_no_score_is_left_are_written_anew() -> None:
    before = by_task(list(range(100)))
    before[1].confidence = before[0].confidence + 1e-10
    new = [0, 100, *range(1, 100)]
    assert revision(before, rows(new), "served") is None


@pytest.mark.parametrize("seed", range(10))
def test_the_longest_increasing_part_is_as_long_as_the_slow_way_finds(seed: int) -> None:
    values = np.random.default_rng(seed).permutation(60).tolist()
    best = [1] * 60
    for place in range(60):
        best[place] += max((best[one] for one in range(place) if values[one] < values[place]), default=0)
    found = [values[place] for place in increasing(values)]
    assert found == sorted(found)
    assert len(found) == max(best)
    assert increasing([]) == []
