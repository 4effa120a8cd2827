"""Projects that are looked after, how far each was synced, and the events that came for it."""

from __future__ import annotations

import pytest

from backend.errors import StoreError
from backend.store import Store
from tests.backend.store.rows import score, task


def test_events_stay_open_until_handled(store: Store) -> None:
    store.add_events([(1, "ANNOTATION_CREATED", [n]) for n in range(3)])
    store.add_events([(2, "TASKS_CREATED", [])])
    numbers = [event.id for event in store.open_events(1)]
    assert [event.subjects for event in store.open_events(1)] == [(0,), (1,), (2,)]
    store.handle_events(1, numbers[1])
    assert [event.id for event in store.open_events(1)] == [numbers[2]]
    assert len(store.open_events()) == 2


def test_another_project_under_the_same_id_starts_empty(store: Store) -> None:
    store.record_tasks(1, [task(1)])
    store.set_served(1, "v")
    store.join(1, "2026-01-01")
    assert len(store.tasks(1)) == 1
    store.join(1, "2027-07-07")
    assert store.tasks(1) == []
    assert store.served(1) == ""


def test_a_project_that_joins_again_keeps_what_it_had(store: Store) -> None:
    store.record_tasks(1, [task(1)])
    store.join(1)
    store.join(1, "2026-01-01")
    assert [row.id for row in store.tasks(1)] == [1]


def test_a_project_that_was_kept_without_a_stamp_takes_one_and_stays(store: Store) -> None:
    store.join(2)
    store.record_tasks(2, [task(1)])
    store.set_served(2, "v")
    store.join(2, "2026-02-02")
    assert (len(store.tasks(2)), store.served(2)) == (1, "v")
    store.join(2, "2027-07-07")
    assert (len(store.tasks(2)), store.served(2)) == (0, ""), "the stamp was not kept"


def test_a_project_that_was_left_keeps_what_was_learnt_and_is_not_looked_after(store: Store) -> None:
    store.join(1, "2026-01-01")
    store.record_tasks(1, [task(1)])
    store.set_served(1, "v")
    store.leave(1)
    assert (store.projects(), store.projects(left=True)) == ([], [1])
    store.take_stamp(1, "2026-01-01")
    store.take_stamp(9, "2026-01-01")
    assert (store.projects(left=True), store.projects()) == ([1], []), "a stamp connects nothing"
    store.join(1, "2026-01-01")
    assert (store.projects(), len(store.tasks(1)), store.served(1)) == ([1], 1, "v")
    store.leave(1)
    store.take_stamp(1, "2027-07-07")
    assert store.tasks(1) == [], "another project under the same id"


def test_forgetting_one_project_leaves_the_other_whole(store: Store) -> None:
    store.join(2)
    for project in (1, 2):
        store.record_tasks(project, [task(1)])
        store.put_scores(project, [score(1, 0)])
        store.add_events([(project, "TASKS_CREATED", [1])])
        store.start_run(project, "sync")
    store.forget(1)
    assert store.projects() == [2]
    assert (store.tasks(1), store.ranking(1), store.open_events(1), store.runs(1)) == ([], [], [], [])
    assert all((store.tasks(2), store.ranking(2), store.open_events(2), store.runs(2)))


def test_the_cursor_never_goes_back_by_a_sync_of_changes(store: Store) -> None:
    assert (store.cursor(1), store.synced_at(1)) == ("", 0.0)
    store.advance_cursor(1, "t2")
    assert store.synced_at(1) == 0.0, "only a sync of every task counts as one"
    store.advance_cursor(1, "t1")
    assert store.cursor(1) == "t2"
    store.set_cursor(1, "t1")
    assert store.cursor(1) == "t1"
    assert store.synced_at(1) > 0


def test_of_handled_events_only_the_last_stay(store: Store) -> None:
    store.add_events([(1, "ANNOTATION_CREATED", [n]) for n in range(5)])
    last = store.open_events(1)[-1].id
    store.handle_events(1, last, keep=2)
    with store._read() as connection:
        kept = list(connection.exec_driver_sql("SELECT id FROM events ORDER BY id").scalars())
    assert kept == [last - 1, last]


def test_of_several_events_all_are_kept_or_none(store: Store) -> None:
    with pytest.raises(StoreError, match="what a store can hold"):
        store.add_events([(1, "ANNOTATION_CREATED", [1]), (2**70, "ANNOTATION_CREATED", [2])])
    assert store.open_events() == []


def test_the_same_moment_written_otherwise_is_the_same_project(store: Store) -> None:
    store.join(1, "2026-01-01T10:00:00.123456Z")
    store.record_tasks(1, [task(1)])
    for stamp in ("2026-01-01T10:00:00.123456+00:00", "2026-01-01T10:00:00Z", "2026-01-01T12:00:00+02:00", ""):
        assert not store.is_another(1, stamp)
        store.take_stamp(1, stamp)
        assert len(store.tasks(1)) == 1
    assert store.is_another(1, "2026-01-01T10:00:01Z")
    assert store.is_another(1, "not a time")
    assert not store.is_another(9, "2026-01-01"), "nobody knows it"
