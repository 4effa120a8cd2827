"""Whatever lies in Redis under our names: nothing raises anything but `QueueError`, and a worker works again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis

from backend.errors import QueueError
from backend.jobs import worker as worker_module
from backend.jobs.queue_mending import mend_queue
from backend.jobs.worker import _work_on
from backend.local.redis_server import RedisServer
from backend.queue import JobQueue

pytestmark = pytest.mark.integration

NO_TEXT = b"\xff\xfe\x00"
JOB = "rq:job:sync-1"
DAMAGE: dict[str, Callable[[Any], object]] = {
    "a text in place of a job": lambda redis: redis.set(JOB, "text"),
    "a list in place of a job": lambda redis: redis.rpush(JOB, "text"),
    "a job without data": lambda redis: redis.hset(JOB, "last_heartbeat", "2026-01-01T00:00:00Z"),
    "a job whose times are none": lambda redis: redis.hset(JOB, mapping={"data": b"x", "created_at": b"yesterday"}),
    "a job whose fields are no text": lambda redis: redis.hset(JOB, mapping={"data": b"x", "origin": NO_TEXT}),
    "a job whose field names are no text": lambda redis: redis.hset(JOB, mapping={b"data": b"x", NO_TEXT: b"x"}),
    "a job of an unknown state": lambda redis: redis.hset(JOB, mapping={"data": b"x", "status": "sleeping"}),
    "a job that waits nowhere": lambda redis: redis.hset(JOB, mapping={"data": b"x", "status": "queued"}),
    "both jobs of a kind run nowhere": lambda redis: [
        redis.hset(f"{JOB}{more}", mapping={"data": b"x", "status": "started"}) for more in ("", "-again")
    ],
    "a text in place of the queue": lambda redis: redis.set("rq:queue:usam", "text"),
    "a hash in place of the queue": lambda redis: redis.hset("rq:queue:usam", "a", "b"),
    "a list in place of the taken ones": lambda redis: redis.hset("rq:queue:usam:intermediate", "a", "b"),
    "a text in place of what runs": lambda redis: redis.set("rq:wip:usam", "text"),
    "a text in place of what failed": lambda redis: redis.set("rq:failed:usam", "text"),
    "a text in place of what is tried again": lambda redis: redis.set("rq:scheduled:usam", "text"),
    "a list in place of the workers": lambda redis: redis.rpush("rq:workers:usam", "text"),
    "names that are no text": lambda redis: [
        redis.rpush("rq:queue:usam", NO_TEXT),
        redis.rpush("rq:queue:usam:intermediate", NO_TEXT),
        redis.zadd("rq:wip:usam", {NO_TEXT: 1}),
        redis.zadd("rq:failed:usam", {NO_TEXT: 1}),
        redis.sadd("rq:workers:usam", NO_TEXT),
    ],
    "jobs in the queue that cannot be read": lambda redis: [
        redis.hset("rq:job:odd", mapping={"data": b"x", "created_at": b"yesterday"}),
        redis.set("rq:job:other", "text"),
        redis.rpush("rq:queue:usam", "odd", "other", "no name, and spaces", "gone"),
        redis.rpush("rq:queue:usam:intermediate", "odd", "other"),
    ],
}


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[Any]:
    with Redis.from_url(redis_server.url) as connection:
        yield connection


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_worker_takes_jobs_again_whatever_lies_under_our_names(
    queue: JobQueue, connection: Any, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(worker_module, "preload", lambda: None)
    monkeypatch.setattr("backend.jobs.watched_worker.WatchedWorker.execute_job", lambda _, job, __: done.append(job.id))
    DAMAGE[damage](connection)
    queue.wake(1, "sync")  # may be refused, and raises nothing
    queue.wake_helpers(1, 3)
    queue.others_wait(1)
    for ask in (queue.states, queue.workers):
        with suppress(QueueError):
            ask()
    _work_on(queue, None, burst=True)
    assert mend_queue(queue) == []
    assert queue.wake(1, "sync")
    assert isinstance(queue.states(), list)
    _work_on(queue, None, burst=True)
    assert any(name.startswith("sync-1") for name in done)


def test_a_queue_in_order_is_left_as_it_is(queue: JobQueue) -> None:
    for project in (1, 2):
        queue.wake(project, "sync")
    queue.wake(1, "retrain")
    before = queue.states()
    assert mend_queue(queue) == []
    assert queue.states() == before


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (lambda redis: redis.config_set("maxmemory", "1"), "command not allowed when used memory"),
        (lambda redis: redis.replicaof("127.0.0.1", 9), "read only replica"),
    ],
)
def test_a_redis_that_takes_nothing_is_said_as_that(
    queue: JobQueue, connection: Any, limit: Callable[[Any], object], words: str
) -> None:
    limit(connection)
    with pytest.raises(QueueError, match=words):
        queue.enqueue(1, "sync")
    assert queue.wake(1, "sync") is False
