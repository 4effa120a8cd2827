"""A shard is one worker's at a time, anybody's once that one is lost, and nobody's once its run has ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from backend.store import Store

HERE = "elsewhere:1"
THERE = "elsewhere:2"


def start(store: Store, count: int = 6, size: int = 2) -> int:
    run = store.start_run(1, "score_pool")
    store.start_shards(1, run, "k", range(1, count + 1), size)
    return run


def test_shards_are_shared_out_in_order_and_the_last_may_be_short(store: Store) -> None:
    run = start(store, 5)
    first, second, third = (store.take_shard(1, holder, 60, key="k") for holder in (HERE, THERE, HERE))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [first.tasks, second.tasks, third.tasks] == [(1, 2), (3, 4), (5,)]
    assert store.take_shard(1, THERE, 60, key="k") is None
    assert store.renew_shard(second, 60, 1)
    assert store.finish_shard(first)
    told = store.shard_progress(1, run)
    assert (told.shards, told.finished, told.done, told.holders) == (3, 1, 3, {HERE, THERE})


def test_a_shard_is_taken_once_however_many_reach_for_it(store: Store) -> None:
    start(store, 20, 1)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda number: store.take_shard(1, f"elsewhere:{number}", 60, key="k"), range(20)))
    assert sorted(one.number for one in taken if one is not None) == list(range(20))


def test_a_shard_whose_holder_says_nothing_is_anothers_and_the_first_is_told(store: Store) -> None:
    run = start(store, 2)
    lost = store.take_shard(1, HERE, -1, key="k")
    again = store.take_shard(1, THERE, 60, key="k")
    assert lost is not None
    assert again is not None
    assert again.tasks == lost.tasks
    assert not store.renew_shard(lost, 60, 1)
    assert not store.finish_shard(lost)
    assert store.finish_shard(again)
    assert not store.finish_shard(again), "once"
    assert store.shard_progress(1, run).finished == 1


def test_the_shard_of_a_process_that_is_dead_here_is_free_at_once(store: Store) -> None:
    start(store, 2)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = socket.gethostname()
    assert store.take_shard(1, f"{host}:{gone.stdout.strip()}", 600, key="k") is not None
    assert store.take_shard(1, f"{host}:{os.getpid()}", 600, key="k") is not None
    assert store.take_shard(1, THERE, 600, key="k") is None


def test_a_shard_that_is_given_back_is_free_but_not_for_helpers_for_ever(store: Store) -> None:
    start(store, 2)
    for _ in range(2):
        taken = store.take_shard(1, HERE, 60, key="k", most_tries=2)
        assert taken is not None
        store.release_shard(taken)
    assert store.take_shard(1, HERE, 60, key="k", most_tries=2) is None
    assert store.take_shard(1, HERE, 60, key="k") is not None


def test_whoever_works_by_other_settings_finds_nothing(store: Store) -> None:
    run = start(store)
    assert store.take_shard(1, HERE, 60, key="another") is None
    assert store.take_shard(1, HERE, 60, key="k", run=run + 1) is None
    assert store.take_shard(2, HERE, 60, key="k") is None


def test_what_a_run_that_ended_left_is_dropped_and_what_runs_beside_stays(store: Store) -> None:
    first = start(store)
    held = store.take_shard(1, HERE, 60, key="k")
    beside = store.start_run(1, "pseudo_label")
    store.start_shards(1, beside, "k", [9], 2)
    assert store.shard_progress(1, first).shards == 3
    second = start(store)
    assert held is not None
    assert not store.renew_shard(held, 60, 1), "whoever is at it stops"
    assert [store.shard_progress(1, run).shards for run in (first, beside, second)] == [0, 1, 3]
    store.drop_shards(1, second)
    assert store.shard_progress(1, second).shards == 0


def test_a_project_that_is_forgotten_has_no_shards(store: Store) -> None:
    run = start(store)
    store.forget(1)
    assert store.shard_progress(1, run).shards == 0
