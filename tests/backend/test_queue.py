"""One job of a kind waits at a time, one woken while it runs runs again, and without Redis nobody is harmed."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import redis
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from backend.errors import QueueError
from backend.local.redis_server import RedisServer
from backend.queue import ENTRY, JOB_NAMES, RETRY_AFTER_S, TIMEOUT_S, JobName, JobQueue, open_queue
from backend.settings import Settings

NOBODY = "redis://:secret-word@127.0.0.1:9/0"
"""Where no server listens."""


class FakeJob:
    """A job as RQ hands it out."""

    def __init__(self, jobs: dict[str, FakeJob], name: str, status: str, meta: dict[str, Any] | None = None) -> None:
        self.jobs, self.name, self.status, self.meta = jobs, name, status, meta or {}

    def get_status(self, *, refresh: bool) -> str:
        return self.status

    def delete(self) -> None:
        del self.jobs[self.name]


class FakeRedisQueue:
    """RQ's queue in memory; `put` are the calls that added a job."""

    def __init__(self, jobs: dict[str, FakeJob]) -> None:
        self.jobs, self.put = jobs, list[dict[str, Any]]()

    def enqueue_call(self, entry: str, *, job_id: str, **more: Any) -> None:
        if job_id in self.jobs:
            raise DuplicateJobError
        self.put.append({"entry": entry, "job_id": job_id, **more})
        self.jobs[job_id] = FakeJob(self.jobs, job_id, "queued", more["meta"])

    def ids(self, *statuses: str) -> list[str]:
        return [name for name, job in self.jobs.items() if job.status in statuses]

    def get_job_ids(self) -> list[str]:
        return self.ids("queued")

    def __getattr__(self, name: str) -> Any:
        status = name.removesuffix("_job_registry")
        return SimpleNamespace(get_job_ids=lambda *, cleanup=True: self.ids(status))


class FakeQueue(JobQueue):
    """A queue whose Redis is a dictionary."""

    def __init__(self) -> None:
        super().__init__(NOBODY)
        self.jobs: dict[str, FakeJob] = {}
        self.rq = FakeRedisQueue(self.jobs)

    def queue(self) -> Any:
        return self.rq

    def _fetch(self, name: str) -> Any:
        return self.jobs.get(name)


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


def put(queue: FakeQueue) -> list[str]:
    return [call["job_id"] for call in queue.rq.put]


def test_a_job_that_waits_is_not_queued_again(queue: FakeQueue) -> None:
    assert [queue.enqueue(3, "sync") for _ in range(3)] == ["sync-3"] * 3
    queue.wake(4, "sync")
    queue.wake(3, "retrain")
    assert put(queue) == ["sync-3", "sync-4", "retrain-3"]


@pytest.mark.parametrize("status", ["started", "scheduled"])
def test_a_job_woken_while_it_runs_or_waits_for_another_try_runs_once_more(queue: FakeQueue, status: str) -> None:
    queue.wake(3, "sync")
    queue.jobs["sync-3"].status = status
    assert [queue.enqueue(3, "sync") for _ in range(3)] == ["sync-3-again"] * 3
    assert put(queue) == ["sync-3", "sync-3-again"]
    queue.jobs["sync-3-again"].status = status
    assert queue.wake(3, "sync"), "one of both will still see what is new"
    assert len(put(queue)) == 2


@pytest.mark.parametrize("status", ["failed", "stopped", "canceled", "finished"])
def test_a_job_that_ended_makes_room(queue: FakeQueue, status: str) -> None:
    queue.wake(3, "sync")
    queue.jobs["sync-3"].status = status
    assert queue.enqueue(3, "sync") == "sync-3"
    assert queue.jobs["sync-3"].status == "queued"


def test_who_is_slower_than_another_finds_the_others_job(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def another_was_faster(name: str, project: int, job: str, at_front: bool) -> None:
        calls.append(name)
        queue.jobs[name] = FakeJob(queue.jobs, name, "queued")
        raise DuplicateJobError

    monkeypatch.setattr(queue, "_put", another_was_faster)
    assert queue.enqueue(3, "sync") == "sync-3"
    assert calls == ["sync-3"]


@pytest.mark.parametrize("job", JOB_NAMES)
def test_a_job_carries_its_name_its_time_and_its_tries(queue: FakeQueue, job: JobName) -> None:
    queue.wake(3, job, at_front=True)
    (call,) = queue.rq.put
    assert (call["entry"], call["args"], call["meta"]) == (ENTRY, (job, 3), {"job": job, "project": 3})
    assert (call["timeout"], call["at_front"], call["unique"]) == (TIMEOUT_S[job], True, True)
    assert call["retry"].intervals == list(RETRY_AFTER_S)
    assert call["retry"].max == len(RETRY_AFTER_S)


def test_the_entry_is_a_function_that_workers_can_import() -> None:
    from importlib import import_module

    module, _, name = ENTRY.rpartition(".")
    assert callable(getattr(import_module(module), name))
    assert set(JOB_NAMES) == set(get_args(JobName)) == set(TIMEOUT_S)


def test_jobs_travel_as_json() -> None:
    assert JobQueue(NOBODY).queue().serializer is JSONSerializer


def test_an_unknown_job_is_refused(queue: FakeQueue) -> None:
    with pytest.raises(QueueError, match="score_pool"):
        queue.enqueue(1, "format_disk")  # type: ignore[arg-type]
    assert queue.jobs == {}


def test_states_tell_what_waits_runs_and_failed_with_its_progress(queue: FakeQueue) -> None:
    for project, status in ((1, "queued"), (2, "started"), (3, "failed"), (4, "finished")):
        queue.wake(project, "sync")
        queue.jobs[f"sync-{project}"].status = status
    queue.jobs["sync-2"].meta.update(done=3, total=8)
    told = {state.project: state for state in queue.states()}
    assert {project: state.state for project, state in told.items()} == {1: "queued", 2: "started", 3: "failed"}
    assert (told[2].id, told[2].name, told[2].progress) == ("sync-2", "sync", {"done": 3, "total": 8})
    assert told[1].progress == {}
    assert queue.jobs["sync-2"].meta["job"] == "sync", "asking changes nothing"


def test_a_job_that_vanishes_while_states_are_read_is_left_out(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.wake(1, "sync")
    monkeypatch.setattr(queue.rq, "get_job_ids", lambda: ["sync-1", "sync-2"])
    assert [state.id for state in queue.states()] == ["sync-1"]


def test_without_redis_waking_is_false_and_the_password_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    queue = JobQueue(NOBODY)
    with caplog.at_level(logging.WARNING):
        assert queue.wake(3, "sync") is False
    assert "job sync of project 3 not queued, the timer will find it" in caplog.text
    assert "secret-word" not in caplog.text
    assert not queue.answers()
    for ask in (queue.states, lambda: queue.enqueue(3, "sync")):
        with pytest.raises(QueueError, match="check REDIS_URL"):
            ask()


@pytest.mark.parametrize("error", [redis.ReadOnlyError("a replica"), OSError("no route")])
def test_what_goes_wrong_inside_redis_is_a_queue_error(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**_: Any) -> None:
        raise error

    monkeypatch.setattr(queue.rq, "enqueue_call", lambda *_, **__: refuse())
    with pytest.raises(QueueError, match=type(error).__name__):
        queue.enqueue(3, "sync")
    assert queue.wake(3, "sync") is False


@pytest.mark.parametrize("url", ["not-an-address", "http://127.0.0.1", "redis://:a/b@host:6379/0"])
def test_a_malformed_address_says_how_one_looks_and_shows_nothing_of_it(url: str) -> None:
    queue = JobQueue(url)
    with pytest.raises(QueueError, match="redis://host:6379/0") as caught:
        queue.connection()
    assert url not in str(caught.value)
    assert queue.wake(3, "sync") is False
    assert not queue.answers()


def test_a_connection_is_made_once_and_given_back() -> None:
    queue = JobQueue(NOBODY)
    first = queue.connection()
    assert queue.connection() is first
    queue.close()
    queue.close()
    assert queue.connection() is not first


def test_the_settings_address_goes_before_the_private_server(tmp_path: Path) -> None:
    own = open_queue(Settings(data_dir=tmp_path)).connection().connection_pool.connection_kwargs
    assert own["path"] == str(RedisServer(tmp_path / "redis").socket)
    named = open_queue(Settings(data_dir=tmp_path, redis_url="redis://elsewhere:7/0"))
    assert named.connection().connection_pool.connection_kwargs["host"] == "elsewhere"


def test_without_redis_nobody_can_say_how_many_workers_there_are() -> None:
    queue = JobQueue("redis://127.0.0.1:1/0", connect_timeout=0.2)
    with pytest.raises(QueueError, match="Redis to answer"):
        queue.workers()
    queue.close()


def test_help_is_asked_of_each_other_worker_once(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "workers", lambda: 4)
    assert queue.wake_helpers(3, 9) == 3
    assert put(queue) == ["score_shard-3-0", "score_shard-3-1", "score_shard-3-2"]
    queue.jobs["score_shard-3-1"].status = "failed"
    queue.jobs["score_shard-3-2"].status = "started"
    assert queue.wake_helpers(3, 9) == 1
    assert queue.wake_helpers(3, 0) == 0


def test_without_redis_nobody_helps_and_nobody_waits() -> None:
    lost = JobQueue(NOBODY)
    assert lost.wake_helpers(3, 2) == 0
    assert not lost.others_wait(3)


def test_helpers_make_room_for_every_other_job(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        queue.rq, "get_job_ids", lambda: ["score_shard-3-1", "score_pool-3", "score_pool-3-again"], raising=False
    )
    assert not queue.others_wait(3)
    monkeypatch.setattr(queue.rq, "get_job_ids", lambda: ["score_shard-3-1", "score_shard-31-0"], raising=False)
    assert queue.others_wait(3)
