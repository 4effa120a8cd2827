"""Order, reasons and audits of a pool."""

from __future__ import annotations

import numpy as np
import pytest

from backend.pool.policy import audit_tasks
from backend.pool.proposals import ObjectScores
from backend.pool.ranking import PoolTask, rank
from backend.settings import Settings
from tests.usam.training.test_gate import constant


def subject(task: int, *gaps: float, failure: str = "") -> PoolTask:
    objects = [ObjectScores(0.8, {"task_gap": gap, "entropy": gap, "samscore": 1 - gap}) for gap in gaps]
    features = np.eye(64, dtype=np.float32)[task % 64]
    return PoolTask(task, objects, features, failure)


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment(model="nano-s", strategy="task", audit_share=0.0)


def test_the_most_doubtful_comes_first_with_the_lowest_confidence(settings: Settings) -> None:
    rows = rank([subject(1, 0.1), subject(2, 0.4, 0.3), subject(3, 0.2)], constant(0.5), settings, 9, "v")
    assert [row.task for row in rows] == [2, 3, 1]
    assert [row.place for row in rows] == [0, 1, 2]
    assert [row.confidence for row in rows] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rows[0].reason == "task gap 0.35 on its 2 most doubtful of 2 objects"
    assert rows[0].acquisition == pytest.approx(0.35)


def test_failures_come_last_and_say_why(settings: Settings) -> None:
    audited = settings.model_copy(update={"audit_share": 0.5})
    subjects = [subject(n, 0.1) for n in range(20)] + [subject(n, failure="no image") for n in range(20, 26)]
    rows = rank(subjects, constant(0.5), audited, 9, "v")
    assert {row.task for row in rows[-6:]} == set(range(20, 26))
    assert rows[-1].reason == "no image"
    assert len({row.confidence for row in rows}) == 26
    assert all(0 < row.confidence <= 1 for row in rows)


def test_near_duplicates_are_not_both_at_the_top(settings: Settings) -> None:
    twin = np.eye(64, dtype=np.float32)[0]
    subjects = [PoolTask(n, subject(n, 0.9).objects, twin) for n in (1, 2)]
    subjects += [subject(n, 0.1 + n / 100) for n in range(3, 10)]
    rows = rank(subjects, constant(0.5), settings, 9, "v")
    assert rows[0].task == 1
    assert [row.task for row in rows].index(2) >= 7


def test_an_order_marks_the_audits_and_no_others(settings: Settings) -> None:
    audited = settings.model_copy(update={"audit_share": 0.3})
    rows = rank([subject(n, n / 1000) for n in range(400)], constant(0.5), audited, 9, "v")
    assert {row.task for row in rows if row.is_audit} == audit_tasks(audited, 9, range(400))


@pytest.mark.parametrize("strategy", ["samscore", "entropy", "random"])
def test_strategies_without_heads_rank_too(settings: Settings, strategy: str) -> None:
    chosen = settings.model_copy(update={"strategy": strategy})
    subjects = [subject(n, n / 10) for n in range(1, 6)]
    rows = rank(subjects, None, chosen, 9, "v")
    assert sorted(row.task for row in rows) == [1, 2, 3, 4, 5]
    assert rows == rank(subjects, None, chosen, 9, "v")


def test_an_empty_pool_has_no_order(settings: Settings) -> None:
    assert rank([], None, settings, 9, "v") == []
