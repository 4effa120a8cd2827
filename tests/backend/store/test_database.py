"""A store loses nothing when several processes write and one is killed; one that cannot be opened says so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy as sql

from backend.errors import StoreError
from backend.store import Store
from backend.store.database import parts
from backend.store.records import ScoreRow
from tests.backend.store.rows import score, task


def write_events(url: str, count: int) -> None:
    store = Store(url)
    for number in range(count):
        store.add_events([(1, "x", [number])])
    store.close()


def test_processes_write_side_by_side(store: Store, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_events, args=(url, 50)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(store.open_events(1)) == 100


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


def test_a_write_that_fails_half_way_changes_nothing(store: Store) -> None:
    store.put_scores(1, [score(1, 0)])
    with pytest.raises(StoreError, match="what a store can hold"):
        store.put_scores(1, [score(2, 0), score(2, 1)])
    assert [row.task for row in store.ranking(1)] == [1]


def test_what_was_written_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'usam.db'}"
    first = Store(url)
    first.record_tasks(1, [task(1)])
    first.close()
    second = Store(url)
    try:
        assert [row.id for row in second.tasks(1)] == [1]
    finally:
        second.close()


def test_rows_go_in_portions_and_none_is_left_out() -> None:
    rows = list(range(1001))
    portions = list(parts(rows))
    assert [len(portion) for portion in portions] == [500, 500, 1]
    assert [row for portion in portions for row in portion] == rows
    assert list(parts([])) == []
