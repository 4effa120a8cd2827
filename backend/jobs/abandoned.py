"""Jobs whose worker is gone, put back at once: RQ itself waits for minutes, and meanwhile nobody else may run them.

A job is abandoned where its worker's process on this machine is dead, where its worker on another host has not been
heard of for `SILENT_S`, where it was taken from the queue by a worker that died before saying so, and where its next
try is overdue because the process that should have started it died with its worker. The job is deleted and asked
for again: jobs are safe to run twice, and the store's leases keep two of a kind apart.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from backend.queue import JOB_NAMES, JobName, JobQueue
from backend.store.runs import is_gone

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

SILENT_S = 12
OVERDUE_S = 5
TAKEN_S = 10
"""How long a job may be neither waiting nor running: a worker says within milliseconds that it began."""
_log = logging.getLogger(__name__)


def worker_name() -> str:
    """A worker's name in Redis, by which others on this machine can tell whether it lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def is_dead_here(name: str) -> bool:
    """Whether a worker of this name ran on this machine and is gone. False for one of another host."""
    host, _, rest = name.partition(":")
    return is_gone(host, rest.partition(":")[0])


def reclaim(queue: JobQueue, is_dead: Callable[[str], bool] = is_dead_here) -> list[str]:
    """Put abandoned jobs back into the queue; returns their ids. Raises `redis.RedisError` without Redis."""
    rq_queue = queue.queue()
    dropped = _taken_and_dropped(rq_queue, queue.connection())
    lost = dict.fromkeys([*_silent(rq_queue), *_orphaned(rq_queue, is_dead), *_overdue(rq_queue), *dropped])
    wanted = {job_id: work for job_id in lost if (work := _forget(rq_queue, job_id)) is not None}
    for job_id in dropped:
        rq_queue.intermediate_queue.remove(job_id)
    for name, project in dict.fromkeys(wanted.values()):  # after all are gone: their ids are free again
        queue.wake(project, name)
    if wanted:
        _log.warning("put back what a lost worker left: %s", ", ".join(wanted))
    return list(wanted)


def _silent(rq_queue: Queue) -> list[str]:
    return [str(name) for name in rq_queue.started_job_registry.get_expired_job_ids()]


def _orphaned(rq_queue: Queue, is_dead: Callable[[str], bool]) -> list[str]:
    started = []
    for job_id in rq_queue.started_job_registry.get_job_ids(cleanup=False):
        job = rq_queue.fetch_job(job_id)
        if job is not None and is_dead(job.worker_name or ""):
            started.append(job_id)
    return started


def _overdue(rq_queue: Queue) -> list[str]:
    due = rq_queue.scheduled_job_registry.get_jobs_to_schedule(int(time.time()) - OVERDUE_S)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in due]


def _taken_and_dropped(rq_queue: Queue, connection: Redis) -> list[str]:
    """Jobs between the queue and a worker, once they have been seen there for `TAKEN_S`."""
    dropped = []
    started = set(rq_queue.started_job_registry.get_job_ids(cleanup=False))
    for job_id in rq_queue.intermediate_queue.get_job_ids():
        if job_id in started:
            continue
        key = f"usam:taken:{job_id}"
        if connection.set(key, time.time(), nx=True, ex=3600):
            continue
        if time.time() - float(connection.get(key) or time.time()) > TAKEN_S:
            dropped.append(job_id)
            connection.delete(key)
    return dropped


def _forget(rq_queue: Queue, job_id: str) -> tuple[JobName, int] | None:
    """Delete a job; returns what it was to do, None for a job that is not one of ours, which stays.

    RQ's own `delete` fails where the record of the job's run has expired.
    """
    job, connection = rq_queue.fetch_job(job_id), rq_queue.connection
    if job is None:
        connection.zrem(rq_queue.scheduled_job_registry.key, job_id)
        return None
    name, project = job.meta.get("job"), job.meta.get("project")
    if name not in JOB_NAMES or not isinstance(project, int):
        return None
    started = rq_queue.started_job_registry
    entries: list[bytes] = connection.zrange(started.key, 0, -1)  # type: ignore[assignment]
    for entry in entries:
        if started.parse_job_id(entry) == job_id:
            connection.zrem(started.key, entry)
    connection.zrem(rq_queue.scheduled_job_registry.key, job_id)
    connection.delete(job.execution_registry.key, job.key)
    return name, project
