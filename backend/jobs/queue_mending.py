"""What lies in Redis under our names and is no queue of jobs is taken out of the way, so that no worker trips over it
again and again: the queue is a hint, the store has the truth.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from backend.queue import UNREADABLE, JobQueue, is_other_kind

if TYPE_CHECKING:
    from rq import Queue

_log = logging.getLogger(__name__)


def mend_queue(queue: JobQueue) -> list[str]:
    """Move aside what is of another kind than RQ's under its names, and remove entries and jobs that cannot be read;
    returns what was in the way. Raises `redis.RedisError` without Redis."""
    connection: Any = queue.connection()
    mended = []
    for key, kind in _kinds(queue.queue()).items():
        found = connection.type(key).decode()
        if found not in (kind, "none"):
            connection.rename(key, f"{key}:damaged-{time.time_ns()}")
            mended.append(f"{key}, a {found}")
        elif found != "none":
            for entry in _entries(connection, key, kind):
                if not _is_readable(queue.queue(), entry, is_job=kind != "set"):
                    _remove(connection, key, kind, entry)
                    mended.append(f"{entry!r} in {key}")
    if mended:
        _log.warning("taken out of the way in Redis: %s", "; ".join(mended)[:500])
    return mended


def _kinds(rq_queue: Queue) -> dict[str, str]:
    """RQ's names for our queue, and what is under each."""
    registries = (
        rq_queue.started_job_registry,
        rq_queue.scheduled_job_registry,
        rq_queue.deferred_job_registry,
        rq_queue.failed_job_registry,
        rq_queue.finished_job_registry,
        rq_queue.canceled_job_registry,
    )
    return {
        rq_queue.key: "list",
        rq_queue.intermediate_queue_key: "list",
        rq_queue.redis_queues_keys: "set",
        "rq:workers": "set",
        f"rq:workers:{rq_queue.name}": "set",
        **{registry.key: "zset" for registry in registries},
    }


def _entries(connection: Any, key: str, kind: str) -> set[bytes]:
    if kind == "set":
        return set(connection.smembers(key))
    return set(connection.lrange(key, 0, -1) if kind == "list" else connection.zrange(key, 0, -1))


def _is_readable(rq_queue: Queue, entry: bytes, *, is_job: bool) -> bool:
    """Whether an entry is a text, and what it names a job or nothing."""
    import redis

    try:
        name = entry.decode()
        if is_job:
            rq_queue.fetch_job(name.partition(":")[0])
    except UNREADABLE:
        return False
    except redis.ResponseError as error:
        if not is_other_kind(error):
            raise
        return False
    return True


def _remove(connection: Any, key: str, kind: str, entry: bytes) -> None:
    if kind == "list":
        connection.lrem(key, 0, entry)
    elif kind == "zset":
        connection.zrem(key, entry)
    else:
        connection.srem(key, entry)
    if kind != "set":
        connection.delete(b"rq:job:" + entry.partition(b":")[0])
