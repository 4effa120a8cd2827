"""The store keeps what it was told, also when several processes write and one of them is killed: on SQLite and on a
real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sql

from backend.errors import StoreError
from backend.label_studio.records import Annotation, Task
from backend.store import Store
from backend.store.records import ProposalRow, SampleRow, ScoreRow


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'sub' / 'usam.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url)
    store.join(1, "2026-01-01")
    yield store
    store.close()


def task(number: int, updated: str = "t1", image: str = "a.png", annotations: int = 0) -> Task:
    return Task(number, {"image": f"{number}-{image}"}, updated, annotations, is_labeled=annotations > 0)


def annotation(number: int, on: int, updated: str = "t1") -> Annotation:
    return Annotation(number, on, updated, [])


def sample(of: int, on: int, region: str = "r", updated: str = "t1") -> SampleRow:
    tokens = np.arange(6, dtype=np.float16)
    return SampleRow(of, region, "nano-s", updated, on, "A", False, tokens, np.stack([tokens] * 4), {"iou": [0.5] * 3})


def score(number: int, place: int) -> ScoreRow:
    return ScoreRow(number, "v", 1.0 - place, 0.5, place, False, "why")


def test_tasks_new_changed_and_gone(store: Store) -> None:
    assert store.record_tasks(1, [task(1), task(2), task(3, annotations=1)]).new == (1, 2, 3)
    store.put_scores(1, [score(1, 0), score(2, 1)])
    changes = store.record_tasks(1, [task(1, "t2"), task(2, "t2", image="b.png")])
    assert (changes.new, changes.changed) == ((), (2,))
    assert [row.task for row in store.ranking(1)] == [1]
    store.remove_tasks(1, [1])
    assert [one.id for one in store.tasks(1)] == [2, 3]
    assert [one.id for one in store.tasks(1, unlabelled=True)] == [2]
    assert store.ranking(1) == []


def test_a_task_stays_unchecked_until_its_annotations_were_compared(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2)])
    assert store.unchecked_tasks(1) == {1, 2}
    store.mark_tasks_synced(1, [1, 2])
    store.record_tasks(1, [task(1), task(2, "t2")])
    assert store.unchecked_tasks(1) == {2}


def test_samples_follow_their_annotation(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2)])
    store.record_annotation(1, annotation(7, 1), [sample(7, 1, "a"), sample(7, 1, "b")], sampled_for="k")
    store.record_annotation(1, annotation(8, 2), [sample(8, 2)], sampled_for="k", reason="one region broken")
    assert [row.region for row in store.samples(1, "nano-s")] == ["a", "b", "r"]
    assert store.samples(1, "another") == []
    store.record_annotation(1, annotation(7, 1, "t2"), [sample(7, 1, "c", "t2")], sampled_for="k")
    assert [row.region for row in store.samples(1, "nano-s")] == ["c", "r"]
    store.delete_annotations(1, [7])
    assert [row.annotation for row in store.samples(1, "nano-s")] == [8]
    assert store.task_of(1, 7) == 1
    assert [one.id for one in store.annotations(1)] == [8]


def test_tokens_come_back_as_half_floats(store: Store) -> None:
    store.record_annotation(1, annotation(7, 1), [sample(7, 1)], sampled_for="k")
    (row,) = store.samples(1, "nano-s")
    assert row.iou_token.dtype == np.float16
    np.testing.assert_array_equal(row.iou_token, sample(7, 1).iou_token)
    np.testing.assert_array_equal(row.mask_tokens, sample(7, 1).mask_tokens)
    assert row.targets == {"iou": [0.5] * 3}


def test_labels_are_new_until_a_retraining_saw_them_and_again_once_changed(store: Store) -> None:
    for number in (7, 8):
        store.record_annotation(1, annotation(number, number), [sample(number, number)], sampled_for="k")
    store.record_annotation(1, annotation(9, 9), [], sampled_for="k", reason="nothing is marked")
    assert store.new_labels(1) == 2
    store.mark_labels_used(1, 5, [7, 8])
    assert store.new_labels(1) == 0
    store.record_annotation(1, annotation(7, 7, "t2"), [sample(7, 7)], sampled_for="k")
    assert store.new_labels(1) == 1


def test_events_stay_open_until_handled(store: Store) -> None:
    store.add_events([(1, "ANNOTATION_CREATED", [n]) for n in range(3)])
    store.add_events([(2, "TASKS_CREATED", [])])
    numbers = [event.id for event in store.open_events(1)]
    assert [event.subjects for event in store.open_events(1)] == [(0,), (1,), (2,)]
    store.handle_events(1, numbers[1])
    assert [event.id for event in store.open_events(1)] == [numbers[2]]
    assert len(store.open_events()) == 2


def test_a_ranking_replaces_the_one_before(store: Store) -> None:
    store.put_scores(1, [score(n, n) for n in range(700)])
    store.put_scores(1, [score(5, 1), score(4, 0)])
    assert [(row.task, row.place) for row in store.ranking(1)] == [(4, 0), (5, 1)]
    assert store.ranking(1, 1)[0].reason == "why"


def test_proposals_are_kept_by_key(store: Store) -> None:
    store.put_proposal(1, ProposalRow(4, "k1", b"abc", [{"id": "x"}]))
    assert store.proposal(1, 4, "k1") == ProposalRow(4, "k1", b"abc", [{"id": "x"}])
    assert store.proposal(1, 4, "k2") is None
    store.put_proposal(1, ProposalRow(4, "k2", b"", [], "broken"))
    assert store.proposal_keys(1) == {4: "k2"}


def test_a_run_cut_short_is_closed_by_the_next(store: Store) -> None:
    first = store.start_run(1, "sync")
    store.update_run(first, done=3, total=9, details={"a": 1})
    second = store.start_run(1, "sync")
    store.finish_run(second, "rejected", "not better", {"gain": -1})
    runs = store.runs(1, "sync")
    assert [(run.state, run.done) for run in runs] == [("rejected", 0), ("interrupted", 3)]
    assert runs[0].details == {"gain": -1}
    last = store.last_run(1, "sync", ("done",))
    assert last is None


def test_another_project_under_the_same_id_starts_empty(store: Store) -> None:
    store.record_tasks(1, [task(1)])
    store.set_served(1, "v")
    store.join(1, "2026-01-01")
    assert len(store.tasks(1)) == 1
    store.join(1, "2027-07-07")
    assert store.tasks(1) == []
    assert store.served(1) == ""


def test_a_lease_is_one_holders_until_it_ends(store: Store) -> None:
    assert store.acquire("retrain-1", "elsewhere:1", 0.2)
    assert not store.acquire("retrain-1", "there:2", 10)
    assert store.acquire("retrain-2", "there:2", 10)
    time.sleep(0.25)
    assert store.acquire("retrain-1", "there:2", 10)
    store.release("retrain-1", "elsewhere:1")
    assert not store.acquire("retrain-1", "elsewhere:1", 10)


def test_a_dead_process_loses_its_lease_at_once(store: Store) -> None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    process.join()
    assert store.acquire("x", f"{socket.gethostname()}:{process.pid}", 1000)
    assert store.acquire("x", f"{socket.gethostname()}:{os.getpid()}", 1000)


def write_events(url: str, count: int) -> None:
    store = Store(url)
    for number in range(count):
        store.add_events([(1, "x", [number])])
    store.close()


def test_processes_write_side_by_side(store: Store, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_events, args=(url, 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(store.open_events(1)) == 150


def replace_rankings(url: str) -> None:
    store, number = Store(url), 0
    while True:
        number += 1
        store.put_scores(1, [ScoreRow(n, f"v{number}", 0.0, 0.5, n, False) for n in range(600)])


def test_kill_9_leaves_one_whole_ranking(store: Store, url: str) -> None:
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=replace_rankings, args=(url,))
        process.start()
        while not store.ranking(1, 1):
            time.sleep(0.01)
        time.sleep(0.05)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        rows = store.ranking(1)
        assert len(rows) == 600
        assert len({row.version for row in rows}) == 1


def test_a_store_of_a_newer_release_is_refused(store: Store, url: str) -> None:
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="got 9999; use the release that wrote it last"):
        Store(url)


@pytest.mark.parametrize("bad", ["no-such-thing://x", "sqlite:////proc/none/usam.db", "nonsense"])
def test_a_store_that_cannot_be_opened_says_so_without_its_address(bad: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store(bad)
    assert bad not in str(caught.value)
