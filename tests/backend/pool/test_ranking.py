"""Order, reasons and audits of a pool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.inference.shown import ShownObjects
from backend.pool.policy import audit_tasks, control_tasks
from backend.pool.ranking import CONTROL, PoolTask, rank
from backend.settings import Settings
from tests.usam.training.test_gate import constant


def subject(task: int, *gaps: float, failure: str = "") -> PoolTask:
    values, count = np.array(gaps), len(gaps)
    columns = {"task_gap": values, "entropy": values, "samscore": 1 - values}
    nothing = np.full(count, np.nan)
    shown = ShownObjects(np.arange(count), nothing, [None] * count, nothing, np.arange(count))
    features = np.eye(64, dtype=np.float32)[task % 64]
    return PoolTask(task, columns, np.full(count, 0.8, np.float32), shown, features, failure=failure)


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment(model="nano-s", strategy="task", image_rule="top-mean", audit_share=0.0)


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
    subjects = [replace(subject(n, 0.9), features=twin) for n in (1, 2)]
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


def judged(task: int, *ious: float, sure: float = float("nan"), covered: float = 1.0, hidden: int = 0) -> PoolTask:
    made = subject(task, *([0.1] * len(ious)))
    assert made.shown is not None
    count = len(ious)
    rows, nothing = np.arange(count), np.full(count, np.nan)
    shown = ShownObjects(rows[: count - hidden], nothing, [None] * count, np.full(count, sure), rows)
    return replace(made, iou=np.array(ious, np.float32), shown=shown, uncovered=1 - covered)


def test_by_default_the_work_expected_in_a_task_decides() -> None:
    settings = Settings.from_environment(model="nano-s", audit_share=0.0)
    assert settings.strategy == "expected-error"
    subjects = [judged(1, 0.9, 0.95), judged(2, *[0.9] * 20), judged(3), judged(4, 0.5), judged(5, 0.9, covered=0.0)]
    subjects += [judged(6, 0.9, sure=0.5), replace(subject(7), features=subject(7).features)]
    rows = rank(subjects, constant(0.5), settings, 9, "v")
    order = [row.task for row in rows]
    assert set(order[:2]) == {3, 7}, "what shows nothing is all work"
    assert order[2:4] == [6, 4], "then what is mislabelled or wrong"
    assert order.index(1) == 6, "the best last"
    assert abs(order.index(2) - order.index(1)) == 1, "many good objects are no reason to ask"
    reasons = {row.task: row.reason for row in rows}
    assert reasons[3] == "nothing found in it, all of it is to be marked"
    assert reasons[4].startswith("masks doubtful: expected error 0.50, not shown 0.00, not covered 0.00, task gap 0.10")
    assert reasons[4].endswith(" on its 1 object shown")
    assert reasons[6].startswith("labels doubtful: expected error 0.10, not shown 0.00, label doubt 0.50")
    assert reasons[5].startswith("objects may be missing: expected error 0.10, not shown 0.00, not covered 1.00")


def test_objects_that_are_not_shown_are_work() -> None:
    settings = Settings.from_environment(model="nano-s", audit_share=0.0)
    few, many = judged(1, 0.9, 0.9), judged(2, *[0.9] * 12, hidden=8)
    rows = rank([few, many], constant(0.5), settings, 9, "v")
    assert [row.task for row in rows] == [2, 1]
    assert rows[0].reason.startswith("objects may be missing: expected error 0.10, not shown 0.67")


def test_random_is_uniform_over_tasks_whatever_they_hold() -> None:
    settings = Settings.from_environment(model="nano-s", strategy="random", audit_share=0.0)
    subjects = [subject(n, *[0.3] * (n % 12)) for n in range(600)]
    rows = rank(subjects, None, settings, 9, "v")
    counts = np.array([row.task % 12 for row in rows], float)
    assert abs(counts[:300].mean() - counts[300:].mean()) < 0.7


def test_an_empty_pool_has_no_order(settings: Settings) -> None:
    assert rank([], None, settings, 9, "v") == []


def test_on_controls_nothing_is_shown_and_the_reason_says_so() -> None:
    settings = Settings.from_environment(model="nano-s", audit_share=0.0, control_share=0.3)
    rows = rank([judged(n, 0.9, 0.8) for n in range(300)], None, settings, 9, "v")
    drawn = {row.task for row in rows if not row.shown}
    assert drawn == control_tasks(settings, 9, range(300))
    assert 50 < len(drawn) < 130
    assert {row.reason for row in rows if row.task in drawn} == {CONTROL}
    assert all(row.shown == (0, 1) for row in rows if row.task not in drawn)
