"""Runs are recorded until the next begins; a lease has one holder at a time."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time

import pytest

from backend.store import Store
from backend.store.runs import is_dead


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


def test_a_lease_may_be_renewed_by_its_holder_and_taken_once_given_back(store: Store) -> None:
    assert store.acquire("x", "elsewhere:1", 100)
    assert store.acquire("x", "elsewhere:1", 100)
    store.release("x", "elsewhere:1")
    assert store.acquire("x", "there:2", 100)


def test_old_runs_go_but_not_those_of_another_job(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.store.runs.KEEP_RUNS", 3)
    other = store.start_run(1, "retrain")
    numbers = [store.start_run(1, "sync") for _ in range(8)]
    kept = [run.id for run in store.runs(1, "sync")]
    assert kept[:3] == numbers[:-4:-1]
    assert len(kept) <= 4
    assert [run.id for run in store.runs(1, "retrain")] == [other]


def test_the_last_run_is_looked_for_among_states(store: Store) -> None:
    first, second = store.start_run(1, "sync", fingerprint="f", total=3), store.start_run(1, "retrain")
    store.finish_run(first, "done", "a\0b" + "x" * 3000)
    store.finish_run(second, "failed")
    last = store.last_run(1, "sync", ("done", "rejected"))
    assert last is not None
    assert (last.id, last.fingerprint, last.total) == (first, "f", 3)
    assert len(last.reason) == 2000
    assert "\0" not in last.reason
    assert store.last_run(1, "sync", ("failed",)) is None
    assert [run.id for run in store.runs(limit=1)] == [second]


def test_a_job_that_is_asked_for_again_counts_as_not_finished(store: Store) -> None:
    store.finish_run(store.start_run(1, "score_pool"), "done")
    store.ask_again(1, "score_pool", "asked for by ann")
    run = store.last_run(1, "score_pool")
    assert run is not None
    assert (run.state, run.reason) == ("interrupted", "asked for by ann")


def test_a_run_whose_place_a_later_one_took_is_not_under_way(store: Store) -> None:
    first = store.start_run(1, "score_pool")
    assert store.is_running(first)
    second = store.start_run(1, "score_pool")
    assert (store.is_running(first), store.is_running(second)) == (False, True)


@pytest.mark.parametrize("until", [1e15, float("inf")])
def test_a_lease_of_years_is_a_damaged_one(store: Store, until: float) -> None:
    """It kept a project's jobs from starting until somebody deleted the row."""
    assert store.acquire("project-1", "elsewhere:1", until)
    assert store.acquire("project-1", "elsewhere:2", 60)
    assert not store.acquire("project-1", "elsewhere:3", 60)


@pytest.mark.parametrize("pid", ["\N{SUPERSCRIPT TWO}", "9" * 30, "-1", "x", ""])
def test_a_holder_that_is_no_process_is_not_dead(pid: str) -> None:
    assert not is_dead(f"{socket.gethostname()}:{pid}")
