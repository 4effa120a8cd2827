"""RQ's worker as we run it, with nothing behind it: what is noticed, and in which process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import redis
from rq import Worker

from backend.jobs import watched_worker
from backend.jobs.abandoned import SILENT_S
from backend.jobs.watched_worker import WORKER_TTL_S, WatchedWorker

PARENT = """
import os, subprocess, sys
code = f"from backend.jobs.watched_worker import _end_with; _end_with({os.getpid()})"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
"""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """RQ's own part of each step, noted and not done."""
    done: list[str] = []
    monkeypatch.setattr(WatchedWorker, "_stay_known", lambda _: None)
    for name in ("heartbeat", "clean_registries", "handle_warm_shutdown_request"):
        monkeypatch.setattr(Worker, name, lambda *_, name=name: done.append(name))
    return done


def watched(beats: list[int] | None = None) -> WatchedWorker:
    """A worker that was never connected."""
    worker = WatchedWorker.__new__(WatchedWorker)
    worker._jobs, worker._own_pid = Any, os.getpid()  # type: ignore[assignment]
    worker._on_beat = lambda: (beats if beats is not None else []).append(1)
    return worker


def test_the_timer_is_looked_after_in_the_workers_process_alone(plain: list[str]) -> None:
    beats: list[int] = []
    worker = watched(beats)
    worker.heartbeat()
    worker._own_pid += 1  # as in the forked process of a job
    worker.heartbeat()
    assert plain == ["heartbeat"] * 2
    assert beats == [1]


def test_lost_jobs_are_put_back_before_rq_looks_and_without_redis_too(
    plain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_worker, "reclaim", lambda jobs: plain.append("reclaim"))
    watched().clean_registries()
    assert plain == ["reclaim", "clean_registries"]

    def gone(jobs: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(watched_worker, "reclaim", gone)
    watched().clean_registries()
    assert plain[2:] == ["clean_registries"]


def test_an_end_that_was_asked_for_is_told_from_one_that_was_not(
    plain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchedWorker, "asked", False)
    worker = watched()
    assert not WatchedWorker.asked
    worker.handle_warm_shutdown_request()
    assert WatchedWorker.asked
    assert plain == ["handle_warm_shutdown_request"]


def test_a_silent_worker_is_missed_within_half_a_minute() -> None:
    assert watched().get_heartbeat_ttl(None) == SILENT_S <= 30
    assert WORKER_TTL_S - 15 <= 30, "RQ listens for a job for so long without looking around"


def test_a_job_ends_with_its_worker() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    child = int(done.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("it outlived its worker")
