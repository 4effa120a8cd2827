"""Tasks are read as far as they changed, and all of them where the numbers say that something was missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backend.pool import tasks
from backend.pool.tasks import refresh_tasks
from backend.store import Store
from tests.factories import FakeLabelStudio

LATER = "2026-01-02T00:00:00.000000Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    made.join(1)
    yield made
    made.close()


@pytest.fixture
def studio() -> FakeLabelStudio:
    made = FakeLabelStudio()
    for number in (1, 2, 3):
        made.add_task(number)
    return made


def test_the_first_time_everything_is_read_then_changes_alone(store: Store, studio: FakeLabelStudio) -> None:
    assert refresh_tasks(store, studio, 1).removed == 0
    studio.add_task(4, updated_at=LATER)
    refresh_tasks(store, studio, 1)
    assert [task.id for task in store.tasks(1)] == [1, 2, 3, 4]
    assert studio.asked_since == ["", "2025-12-31T23:59:30.000000Z"]
    assert store.cursor(1) == LATER


def test_a_pool_that_was_imported_in_one_go_is_not_read_again_for_ever(store: Store, studio: FakeLabelStudio) -> None:
    studio.now = datetime(2026, 1, 1, 0, 1, tzinfo=timezone.utc)
    refresh_tasks(store, studio, 1)
    refresh_tasks(store, studio, 1)
    assert studio.asked_since[-1] == "2025-12-31T23:59:30.000000Z", "a transaction may still be open"
    studio.now += timedelta(minutes=10)
    refresh_tasks(store, studio, 1)
    refresh_tasks(store, studio, 1)
    assert studio.asked_since[-1] == "2026-01-01T00:05:30.000000Z"
    studio.add_task(4, updated_at="2026-01-01T00:06:00.000000Z")
    refresh_tasks(store, studio, 1)
    assert [task.id for task in store.tasks(1)] == [1, 2, 3, 4]


def test_everything_is_read_now_and_then_a_large_pool_less_often(
    store: Store, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_tasks(store, studio, 1)
    monkeypatch.setattr(tasks.time, "time", lambda: store.synced_at(1) + 1000)
    with monkeypatch.context() as large:
        large.setattr(tasks, "FULL_TASK_S", 500.0)
        refresh_tasks(store, studio, 1)
        assert studio.asked_since[-1] != "", "three tasks of 500 s each: not before 1,500 s"
    refresh_tasks(store, studio, 1)
    assert studio.asked_since[-1] == ""


def test_a_task_that_is_gone_is_missed_by_number(store: Store, studio: FakeLabelStudio) -> None:
    refresh_tasks(store, studio, 1)
    del studio.task_list[1]
    assert refresh_tasks(store, studio, 1).removed == 1
    assert [task.id for task in store.tasks(1)] == [1, 3]


def test_pages_that_move_while_they_are_read_remove_nothing(
    store: Store, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_tasks(store, studio, 1)
    store.set_cursor(1, "")
    whole, readings = studio.tasks, iter([[0, 2], [0, 1, 2]])

    def moving(project: int, *, since: str = "", **_: object) -> Iterator[object]:
        tasks = list(whole(project, since=since))
        return iter([tasks[place] for place in next(readings)])

    monkeypatch.setattr(studio, "tasks", moving)
    assert refresh_tasks(store, studio, 1).removed == 0
    assert len(store.tasks(1)) == 3


@pytest.mark.parametrize("told", ["yesterday", "2099-01-01T00:00:00.000000Z", "2099-01-01", "zzzz"])
def test_a_time_that_is_none_or_not_yet_counts_for_nothing(store: Store, studio: FakeLabelStudio, told: str) -> None:
    studio.now = datetime(2026, 1, 1, 0, 1, tzinfo=timezone.utc)
    studio.task_list[0] = dataclasses.replace(studio.task_list[0], updated_at=told)
    for _ in range(2):
        refresh_tasks(store, studio, 1)
    assert studio.asked_since == ["", "2025-12-31T23:59:30.000000Z"]
    assert len(store.tasks(1)) == 3


def test_a_clock_that_goes_back_hides_no_change(store: Store, studio: FakeLabelStudio) -> None:
    studio.now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    studio.add_task(4, updated_at="2030-01-01T00:00:00.000000Z")
    refresh_tasks(store, studio, 1)
    studio.now = datetime(2026, 1, 1, 0, 1, tzinfo=timezone.utc)
    studio.task_list[1] = dataclasses.replace(
        studio.task_list[1], annotations=1, updated_at="2026-01-01T00:00:30.000000Z"
    )
    store.mark_tasks_synced(1, [1, 2, 3, 4])
    refresh_tasks(store, studio, 1)
    assert store.unchecked_tasks(1) == {2}


def test_a_task_that_cannot_be_stored_is_set_aside_and_the_others_are_stored(
    store: Store, studio: FakeLabelStudio
) -> None:
    studio.task_list[1] = dataclasses.replace(studio.task_list[1], annotations=2**70)
    (reason,) = refresh_tasks(store, studio, 1).set_aside
    assert reason.startswith("task 2: expected what a store can hold")
    assert [task.id for task in store.tasks(1)] == [1, 3]


def test_fewer_tasks_told_than_counted_remove_none(
    store: Store, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_tasks(store, studio, 1)
    store.set_cursor(1, "")
    with monkeypatch.context() as cut:
        cut.setattr(studio, "tasks", lambda *_, **__: iter(studio.task_list[:1]))
        assert refresh_tasks(store, studio, 1).removed == 0
    del studio.task_list[1]
    assert refresh_tasks(store, studio, 1).removed == 1
    assert [task.id for task in store.tasks(1)] == [1, 3]


def test_a_task_that_label_studio_cannot_tell_is_named_and_stays_as_it_was(
    store: Store, studio: FakeLabelStudio
) -> None:
    refresh_tasks(store, studio, 1)
    studio.untold.add(2)
    studio.add_task(4, updated_at=LATER)
    for _ in range(2):
        store.set_cursor(1, "")
        found = refresh_tasks(store, studio, 1)
        assert (found.removed, [line[:38] for line in found.set_aside]) == (
            0,
            ["task 2: Label Studio itself cannot tell"[:38]],
        )
    assert [task.id for task in store.tasks(1)] == [1, 2, 3, 4]
    del studio.task_list[1]
    assert refresh_tasks(store, studio, 1).removed == 1
