"""The queue on a real Redis: one job of a kind, nothing lost to a kill, no harm without Redis."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from backend.local.redis_server import RedisServer
from backend.queue import JobQueue
from tests.integration.test_abandoned import begin

pytestmark = pytest.mark.integration


def ids(queue: JobQueue) -> list[str]:
    return [state.id for state in queue.states()]


def test_a_job_that_waits_is_not_queued_again(queue: JobQueue) -> None:
    assert [queue.wake(3, "sync") for _ in range(5)] == [True] * 5
    queue.wake(4, "sync")
    queue.wake(3, "retrain", at_front=True)
    assert ids(queue) == ["retrain-3", "sync-3", "sync-4"]


def test_a_job_woken_while_it_runs_runs_once_more(queue: JobQueue) -> None:
    queue.wake(3, "sync")
    begin(queue, "sync-3", "a worker")
    for _ in range(4):
        assert queue.wake(3, "sync")
    assert queue.queue().get_job_ids() == ["sync-3-again"]


@pytest.mark.parametrize("status", ["FAILED", "STOPPED", "CANCELED", "FINISHED"])
def test_a_job_that_ended_makes_room(queue: JobQueue, status: str) -> None:
    from rq.job import JobStatus

    queue.wake(3, "sync")
    job = queue.queue().fetch_job("sync-3")
    assert job is not None
    queue.queue().remove(job)
    job.set_status(JobStatus[status])
    assert queue.wake(3, "sync")
    assert queue.queue().get_job_ids() == ["sync-3"]


def test_a_job_is_json_and_says_what_it_is(queue: JobQueue, redis_server: RedisServer) -> None:
    import zlib

    queue.wake(3, "score_pool")
    data = zlib.decompress(queue.connection().hget("rq:job:score_pool-3", "data"))
    assert json.loads(data) == ["backend.jobs.entry.perform", None, ["score_pool", 3], {}]
    (state,) = queue.states()
    assert (state.name, state.project, state.state) == ("score_pool", 3, "queued")


def test_jobs_survive_kill_9_of_redis(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with RedisServer(folder) as server:
        queue = JobQueue(server.url)
        queue.wake(3, "sync")
        time.sleep(1.2)  # written to disk every second
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while server.answers() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert queue.wake(3, "sync") is False
        with RedisServer(folder):
            assert ids(queue) == ["sync-3"]
        queue.close()


def test_redis_never_evicts_and_is_no_ones_elses(redis_server: RedisServer) -> None:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("port") == {"port": "0"}
    assert redis_server.socket.stat().st_mode & 0o077 == 0


def test_a_long_folder_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    with RedisServer(tmp_path / ("long" * 30)) as server:
        assert len(str(server.socket)) < 108
        assert server.answers()


def test_a_server_left_by_a_killed_run_is_replaced(tmp_path: Path) -> None:
    import redis

    left = RedisServer(tmp_path / "redis").start()
    with redis.Redis.from_url(left.url) as client:
        client.set("label", "kept")
    with RedisServer(tmp_path / "redis") as server:
        assert server.pid != left.pid
        with redis.Redis.from_url(server.url) as client:
            assert client.get("label") == b"kept"
    left.stop()
