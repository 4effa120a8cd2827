"""The worker goes on without Redis and ends when asked; its timer wakes every project and is started again."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from sqlalchemy.exc import OperationalError

from backend.errors import QueueError
from backend.jobs import watched_worker, worker
from backend.jobs.worker import PRELOADED, TIMER_BACK_OFF_S, Timer, tick
from backend.settings import Settings
from backend.store import Store
from tests.factories import FakeQueue


def test_the_timer_wakes_every_project_that_is_looked_after(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    store = Store(settings.store_url)
    for project in (3, 5):
        store.join(project)
    store.close()
    queue: Any = FakeQueue()
    assert tick(settings, queue) == 2
    assert queue.waked == ["sync", "sync"]


def test_a_store_that_cannot_be_read_does_not_end_the_timer(tmp_path: Path) -> None:
    (tmp_path / "usam.db").write_bytes(b"no database at all" * 100)
    queue: Any = FakeQueue()
    assert tick(Settings(data_dir=tmp_path), queue) == 0
    assert queue.waked == []


def test_a_database_that_starts_again_does_not_end_the_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT", None, ConnectionError("the server closed the connection"))

    monkeypatch.setattr(Store, "projects", nothing)
    queue: Any = FakeQueue()
    assert tick(Settings(data_dir=tmp_path), queue) == 0


@pytest.mark.parametrize("name", PRELOADED)
def test_what_is_loaded_ahead_exists(name: str) -> None:
    assert find_spec(name) is not None


class Process:
    """A timer's process that does nothing."""

    def __init__(self, made: list[Process]) -> None:
        self.alive, self.ended, self.exitcode, self.pid = True, 0, 1, len(made)
        made.append(self)

    def start(self) -> None: ...

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.ended += 1

    def join(self, _timeout: float) -> None: ...


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that were made."""
    processes: list[Process] = []
    context = SimpleNamespace(Process=lambda **_: Process(processes))
    monkeypatch.setattr(worker.multiprocessing, "get_context", lambda _: context)
    return processes


def test_a_timer_that_died_is_started_again_but_not_at_once(
    tmp_path: Path, made: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    timer = Timer(Settings(data_dir=tmp_path))
    assert timer.pid is None
    timer.keep()
    now[0] += 2 * TIMER_BACK_OFF_S
    timer.keep()
    assert len(made) == 1, "it lives"
    made[0].alive = False
    timer.keep()
    made[1].alive = False
    timer.keep()
    assert len(made) == 2, "it has just been started"
    now[0] += TIMER_BACK_OFF_S
    timer.keep()
    assert (len(made), timer.pid) == (3, 2)


def test_a_fork_that_passes_by_ends_no_timer(
    tmp_path: Path, made: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer(Settings(data_dir=tmp_path))
    timer.keep()
    with monkeypatch.context() as fork:
        fork.setattr(worker.os, "getpid", lambda: -1)
        timer.stop()
    assert made[0].ended == 0
    timer.stop()
    assert made[0].ended == 1


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> list[bool]:
    """Let the worker's loop end in these ways, one after another; gives the `burst` of each."""
    begun: list[bool] = []
    left = list(answers)
    monkeypatch.setattr("backend.jobs.queue_mending.mend_queue", lambda queue: [])

    class Worker:
        asked = False

        def __init__(self, *_: Any) -> None: ...

        def work(self, *, burst: bool, **_: Any) -> None:
            begun.append(burst)
            answer = left.pop(0)
            Worker.asked = not left
            if answer is not None:
                raise answer

    monkeypatch.setattr(watched_worker, "WatchedWorker", Worker)
    monkeypatch.setattr(worker, "preload", lambda: None)
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)
    return begun


def test_a_worker_begins_again_until_it_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = answering(monkeypatch, redis.ConnectionError("gone"), None, None)
    queue: Any = FakeQueue()
    worker._work_on(queue, None, burst=False)
    assert begun == [False] * 3


def test_a_burst_works_once_and_says_that_redis_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: Any = FakeQueue()
    assert answering(monkeypatch, None, None) == []
    worker._work_on(queue, None, burst=True)
    answering(monkeypatch, redis.ConnectionError("gone"), None)
    with pytest.raises(QueueError, match="check REDIS_URL"):
        worker._work_on(queue, None, burst=True)
