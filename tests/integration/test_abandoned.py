"""What lost workers leave in a real Redis is put back, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest
from rq.executions import Execution
from rq.job import JobStatus

from backend.jobs import abandoned
from backend.jobs.abandoned import reclaim, worker_name
from backend.queue import JobQueue

pytestmark = pytest.mark.integration


def begin(queue: JobQueue, job_id: str, worker: str, ttl: int = 60) -> None:
    """As a worker that took the job and said so."""
    rq_queue = queue.queue()
    job = rq_queue.fetch_job(job_id)
    assert job is not None
    rq_queue.remove(job)
    with queue.connection().pipeline() as pipeline:
        Execution.create(job, ttl=ttl, pipeline=pipeline)
        job.prepare_for_execution(worker, pipeline=pipeline)
        pipeline.execute()


def dead_worker() -> str:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    return worker_name().replace(f":{os.getpid()}:", f":{done.pid}:")


def test_a_dead_workers_job_waits_again_and_a_living_ones_goes_on(queue: JobQueue) -> None:
    queue.wake(1, "sync")
    queue.wake(2, "sync")
    begin(queue, "sync-1", dead_worker())
    begin(queue, "sync-2", worker_name())
    assert reclaim(queue) == ["sync-1"]
    assert queue.queue().get_job_ids() == ["sync-1"]
    assert {(state.id, state.state) for state in queue.states()} == {("sync-1", "queued"), ("sync-2", "started")}
    assert reclaim(queue) == []


def test_both_jobs_of_a_kind_left_by_two_dead_workers_wait_again(queue: JobQueue) -> None:
    queue.wake(1, "sync")
    begin(queue, "sync-1", dead_worker())
    queue.wake(1, "sync")
    begin(queue, "sync-1-again", dead_worker())
    assert sorted(reclaim(queue)) == ["sync-1", "sync-1-again"]
    assert [(state.id, state.state) for state in queue.states()] == [("sync-1", "queued")], "one of a kind is enough"


def test_a_worker_elsewhere_that_says_nothing_is_lost(queue: JobQueue) -> None:
    queue.wake(1, "retrain")
    begin(queue, "retrain-1", "elsewhere:7:abc", ttl=1)
    assert reclaim(queue) == []
    time.sleep(2.1)  # its record of the run has expired too
    assert reclaim(queue) == ["retrain-1"]
    assert queue.queue().get_job_ids() == ["retrain-1"]


def test_an_overdue_try_waits_again(queue: JobQueue) -> None:
    queue.wake(1, "sync")
    rq_queue = queue.queue()
    job = rq_queue.fetch_job("sync-1")
    assert job is not None
    rq_queue.remove(job)
    job.set_status(JobStatus.SCHEDULED)
    rq_queue.scheduled_job_registry.schedule(job, datetime.now(timezone.utc) - timedelta(seconds=60))
    assert reclaim(queue) == ["sync-1"]
    assert rq_queue.get_job_ids() == ["sync-1"]


def test_a_job_taken_by_one_that_died_at_once_waits_again(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned, "TAKEN_S", 0)
    queue.wake(1, "sync")
    rq_queue = queue.queue()
    rq_queue.remove("sync-1")
    queue.connection().lpush(rq_queue.intermediate_queue_key, "sync-1")
    assert reclaim(queue) == [], "seen for the first time"
    time.sleep(0.01)
    assert reclaim(queue) == ["sync-1"]
    assert rq_queue.get_job_ids() == ["sync-1"]
    assert rq_queue.intermediate_queue.get_job_ids() == []


def test_others_jobs_are_rqs_own_business(queue: JobQueue) -> None:
    queue.queue().enqueue("os.getpid", job_id="other")
    begin(queue, "other", dead_worker())
    assert reclaim(queue) == []
    assert [(state.id, state.state) for state in queue.states()] == [("other", "started")]
