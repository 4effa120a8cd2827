"""Jobs whose worker is gone are put back at once, each once, and nobody else's are touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from backend.jobs import abandoned
from backend.jobs.abandoned import OVERDUE_S, TAKEN_S, is_dead_here, reclaim, worker_name


class Redis:
    """As much of Redis as reclaiming needs; sorted sets and values in dictionaries."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, float]] = {"started": {}, "scheduled": {}}
        self.values: dict[str, Any] = {}
        self.deleted: list[str] = []

    def zrange(self, key: str, _first: int, _last: int) -> list[bytes]:
        return [name.encode() for name in self.sets[key]]

    def zrem(self, key: str, name: Any) -> None:
        self.sets[key].pop(name.decode() if isinstance(name, bytes) else name, None)

    def delete(self, *keys: str) -> None:
        self.deleted += keys
        for key in keys:
            self.values.pop(key, None)

    def set(self, key: str, value: Any, *, nx: bool, ex: int) -> bool:
        assert nx
        if key in self.values:
            return False
        self.values[key] = value
        return True

    def get(self, key: str) -> Any:
        return self.values.get(key)


class Queue:
    """Our queue on RQ's, in memory. A run of a job stands as `job:run` among those started, until its time."""

    def __init__(self) -> None:
        self.redis, self.jobs = Redis(), dict[str, Any]()
        self.taken: list[str] = []
        self.waked: list[tuple[int, str]] = []
        self.now = time.time()

    def add(self, job_id: str, worker: str = "", *, meta: Any = None) -> str:
        name, _, project = job_id.removesuffix("-again").rpartition("-")
        self.jobs[job_id] = SimpleNamespace(
            worker_name=worker,
            meta={"job": name, "project": int(project)} if meta is None else meta,
            execution_registry=SimpleNamespace(key=f"runs:{job_id}"),
            key=f"job:{job_id}",
        )
        return job_id

    def start(self, job_id: str, worker: str, *, expires_in: float = 60) -> None:
        self.redis.sets["started"][f"{self.add(job_id, worker)}:run"] = self.now + expires_in

    def schedule(self, job_id: str, due_in: float) -> None:
        self.redis.sets["scheduled"][self.add(job_id)] = self.now + due_in

    # what reclaim asks of ours and of RQ's

    def connection(self) -> Redis:
        return self.redis

    def wake(self, project: int, job: str) -> bool:
        assert f"job:{job}-{project}" in self.redis.deleted, "its id is not free yet"
        self.waked.append((project, job))
        return True

    def queue(self) -> Any:
        started, scheduled = self.redis.sets["started"], self.redis.sets["scheduled"]
        parse = lambda entry: (entry.decode() if isinstance(entry, bytes) else entry).partition(":")[0]  # noqa: E731
        return SimpleNamespace(
            connection=self.redis,
            fetch_job=self.jobs.get,
            started_job_registry=SimpleNamespace(
                key="started",
                parse_job_id=parse,
                get_job_ids=lambda *, cleanup: [parse(entry) for entry in started],
                get_expired_job_ids=lambda: [parse(entry) for entry, until in started.items() if until < self.now],
            ),
            scheduled_job_registry=SimpleNamespace(
                key="scheduled",
                get_jobs_to_schedule=lambda until: [name.encode() for name, due in scheduled.items() if due <= until],
            ),
            intermediate_queue=SimpleNamespace(get_job_ids=lambda: list(self.taken), remove=self.taken.remove),
        )


def reclaimed(queue: Queue, *dead: str) -> list[str]:
    ours: Any = queue
    return reclaim(ours, lambda worker: worker in dead)


def test_a_dead_workers_job_is_put_back_and_a_living_ones_goes_on() -> None:
    queue = Queue()
    queue.start("sync-1", "dead")
    queue.start("sync-2", "alive")
    assert reclaimed(queue, "dead") == ["sync-1"]
    assert queue.waked == [(1, "sync")]
    assert list(queue.redis.sets["started"]) == ["sync-2:run"]
    assert queue.redis.deleted == ["runs:sync-1", "job:sync-1"], "its id is free again"


def test_two_lost_jobs_of_a_kind_are_asked_for_once() -> None:
    queue = Queue()
    queue.start("sync-1", "dead")
    queue.start("sync-1-again", "dead")
    assert sorted(reclaimed(queue, "dead")) == ["sync-1", "sync-1-again"]
    assert queue.waked == [(1, "sync")]


def test_a_worker_elsewhere_is_lost_once_it_has_said_nothing_for_long() -> None:
    queue = Queue()
    queue.start("retrain-1", "elsewhere", expires_in=1)
    assert reclaimed(queue) == []
    queue.now += 2
    assert reclaimed(queue) == ["retrain-1"]
    assert queue.waked == [(1, "retrain")]


@pytest.mark.parametrize(("due_in", "lost"), [(-OVERDUE_S - 2, ["sync-1"]), (0, []), (60, [])])
def test_a_next_try_that_is_overdue_is_put_back(due_in: float, lost: list[str]) -> None:
    queue = Queue()
    queue.schedule("sync-1", due_in)
    assert reclaimed(queue) == lost
    assert bool(queue.redis.sets["scheduled"]) == (lost == [])


def test_a_job_between_queue_and_worker_is_put_back_once_it_was_seen_there_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(abandoned.time, "time", lambda: now[0])
    queue = Queue()
    queue.taken.append(queue.add("sync-1"))
    assert reclaimed(queue) == [], "seen for the first time"
    now[0] += TAKEN_S
    assert reclaimed(queue) == []
    now[0] += 1
    assert reclaimed(queue) == ["sync-1"]
    assert (queue.taken, queue.waked) == ([], [(1, "sync")])
    assert "usam:taken:sync-1" not in queue.redis.values, "its next stay there is counted from its own beginning"


def test_a_job_that_has_begun_is_not_taken_for_one_that_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(abandoned.time, "time", lambda: now[0])
    queue = Queue()
    queue.now = now[0]
    queue.start("sync-1", "alive", expires_in=9999)
    queue.taken.append("sync-1")
    for _ in range(2):
        assert reclaimed(queue) == []
        now[0] += TAKEN_S + 1


@pytest.mark.parametrize("meta", [{}, {"job": "format_disk", "project": 1}, {"job": "sync", "project": "1"}])
def test_others_jobs_are_rqs_own_business(meta: dict[str, Any]) -> None:
    queue = Queue()
    queue.start("sync-1", "dead")
    queue.jobs["sync-1"].meta = meta
    assert reclaimed(queue, "dead") == []
    assert (queue.waked, queue.redis.deleted) == ([], [])
    assert list(queue.redis.sets["started"]) == ["sync-1:run"]


def test_a_try_whose_job_is_gone_is_forgotten() -> None:
    queue = Queue()
    queue.schedule("sync-1", -60)
    del queue.jobs["sync-1"]
    assert reclaimed(queue) == []
    assert queue.redis.sets["scheduled"] == {}


def dead_worker() -> str:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    return worker_name().replace(f":{os.getpid()}:", f":{done.pid}:")


def test_only_a_name_of_this_machine_can_be_dead() -> None:
    assert not is_dead_here(worker_name())
    assert is_dead_here(dead_worker())
    for name in ("", "elsewhere:1:abc", "abcdef0123", "elsewhere:999999999:x", f"{socket.gethostname()}:x:y"):
        assert not is_dead_here(name)


def test_a_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(abandoned.os, "kill", refuse)
    assert not is_dead_here(worker_name())


def test_two_workers_of_one_process_have_two_names() -> None:
    assert worker_name() != worker_name()
