"""The job queue: RQ on Redis. A hint only: what has to be done is always found again from the store.

One job of a kind and project waits at a time; waking it while it waits changes nothing, waking it while it
runs makes it run once more afterwards. Jobs travel as JSON (their name and the project's number), never as
pickles.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from backend.errors import QueueError, reason_of

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

    from backend.settings import Settings

JobName = Literal["sync", "score_pool", "score_shard", "retrain", "pseudo_label", "plan", "track"]
JOB_NAMES: tuple[JobName, ...] = ("sync", "score_pool", "score_shard", "retrain", "pseudo_label", "plan", "track")
QUEUE_NAME = "usam"
ENTRY = "backend.jobs.entry.perform"
TIMEOUT_S: dict[JobName, int] = {
    "sync": 3600,
    "score_pool": 24 * 3600,
    "score_shard": 24 * 3600,
    "retrain": 3600,
    "pseudo_label": 24 * 3600,
    "plan": 3600,
    "track": 24 * 3600,
}
RETRY_AFTER_S = (5, 30, 120)
FAILURE_KEPT_S = 24 * 3600

_log = logging.getLogger(__name__)
_WAITING = ("queued", "deferred")
_LIVING = (*_WAITING, "started", "scheduled")
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What RQ raises on what others, or a damaged file, have put into Redis: it has no error type for it."""


@contextmanager
def answering() -> Iterator[None]:
    """Whatever Redis refuses, and whatever it holds that is no text or no job, is raised as `QueueError`."""
    import redis

    try:
        yield
    except redis.ResponseError as error:  # it is full, may not be written to, or holds something else under our names
        remedy = "see what uses this Redis; whatever it is, a job that is lost the timer finds again"
        raise QueueError("Redis to do as it is asked", reason_of(error), remedy) from error
    except (redis.RedisError, OSError) as error:
        raise QueueError("Redis to answer", type(error).__name__, "check REDIS_URL and that it runs") from error
    except UNREADABLE as error:
        remedy = "give the queue a Redis, or a database of one, of its own; workers remove what they cannot read"
        raise QueueError("jobs in Redis that can be read", reason_of(error), remedy) from error


def is_other_kind(error: Exception) -> bool:
    """Whether Redis refuses because what is under a name is of another kind: a text in the place of a list."""
    return str(error).startswith("WRONGTYPE")


def open_queue(settings: Settings) -> JobQueue:
    """The queue that the settings name: REDIS_URL, else the private server of the data folder."""
    from backend.local.redis_server import RedisServer

    return JobQueue(settings.redis_url.get_secret_value() or RedisServer(settings.data_dir / "redis").url)


@dataclass(frozen=True)
class JobState:
    """One job that Redis knows. `progress` is what the job last said of itself."""

    id: str
    name: str
    project: int
    state: str
    progress: dict[str, Any] = field(default_factory=dict)


class JobQueue:
    """The queue at `url` (redis://, rediss:// or unix://). Connects at first use; safe to share between
    threads."""

    def __init__(self, url: str, *, connect_timeout: float = 1.0, timeout: float = 5.0) -> None:
        self._url, self._timeouts = url, (connect_timeout, timeout)
        self._redis: Redis | None = None

    def wake(self, project: int, job: JobName, *, at_front: bool = False) -> bool:
        """See to it that `job` runs for `project` soon. True where Redis took it or had it waiting already.

        Never raises: without Redis it logs and returns False, and the worker's timer finds the work.
        """
        try:
            return self.enqueue(project, job, at_front=at_front) is not None
        except QueueError as error:
            _log.warning("job %s of project %s not queued, the timer will find it: %s", job, project, error)
            return False

    def enqueue(self, project: int, job: JobName, *, at_front: bool = False) -> str:
        """As `wake`, but raises `QueueError` where Redis cannot be reached. Returns the id of the waiting
        job."""
        if job not in JOB_NAMES:
            raise QueueError(f"a job out of {', '.join(JOB_NAMES)}", repr(job), "choose one of these")
        from rq.exceptions import DuplicateJobError

        with answering():
            for attempt in range(3):
                for name in (f"{job}-{project}", f"{job}-{project}-again"):
                    state = self._state(name)
                    if state is not None and state not in _LIVING:
                        self._drop(name)
                        state = None
                    elif state is not None and self._is_lost(name):
                        self._remove(name)
                        state = None
                    if state in _WAITING:
                        return name
                    if state is None:
                        try:
                            self._put(name, project, job, at_front)
                        except DuplicateJobError:
                            if attempt:  # nobody was faster, twice: what is there is no job
                                self._remove(name)
                            break
                        return name
                else:
                    return f"{job}-{project}-again"  # both run or wait for another try: nothing is lost
        return f"{job}-{project}"

    def wake_helpers(self, project: int, most: int) -> int:
        """Ask for one `score_shard` a worker beside the one that asks, `most` in all; returns how many are new. Never
        raises: without Redis nobody helps."""
        from rq.exceptions import DuplicateJobError

        made = 0
        try:
            with answering():
                for slot in range(min(most, self.workers() - 1)):
                    name = f"score_shard-{project}-{slot}"
                    state = self._state(name)
                    if state in _LIVING:
                        continue
                    if state is not None:
                        self._drop(name)
                    with suppress(DuplicateJobError):
                        self._put(name, project, "score_shard", at_front=False)
                        made += 1
        except QueueError as error:
            _log.warning("nobody is asked to help with project %s: %s", project, error)
        return made

    def others_wait(self, project: int) -> bool:
        """Whether a job waits for a worker that is not about ranking `project`. False where Redis does not answer."""
        try:
            with answering():
                waiting = self.queue().get_job_ids()
        except QueueError:
            return False
        ours = (f"score_shard-{project}-", f"score_pool-{project}-")  # another ranking of it has to wait anyway
        return any(not f"{name}-".startswith(ours) for name in waiting)

    def states(self) -> list[JobState]:
        """Jobs waiting, running, failed or to be tried again. Raises `QueueError` without Redis."""
        with answering():
            ids = [*self._ids(), *self.queue().failed_job_registry.get_job_ids(cleanup=False)]
            return [state for state in map(self._describe, dict.fromkeys(ids)) if state is not None]

    def answers(self) -> bool:
        """Whether Redis answers."""
        try:
            with answering():
                return bool(self.connection().ping())
        except QueueError:
            return False

    def workers(self) -> int:
        """How many workers wait for jobs or do one. Raises `QueueError` without Redis."""
        from rq import Worker

        with answering():
            return int(Worker.count(queue=self.queue()))

    def connection(self) -> Redis:
        """The Redis connection, made on first use. Raises `QueueError` on a malformed address."""
        if self._redis is None:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            connect, timeout = self._timeouts
            once_more = Retry(NoBackoff(), 1)  # the default waits for seconds, in which a webhook would wait too
            try:
                self._redis = Redis.from_url(
                    self._url, socket_connect_timeout=connect, socket_timeout=timeout, retry=once_more
                )
            except (ValueError, TypeError) as error:
                raise QueueError(
                    "REDIS_URL such as redis://host:6379/0",
                    "one that does not parse",
                    "correct it; in a password write @ as %40, / as %2F, # as %23, ? as %3F, : as %3A",
                ) from error
        return self._redis

    def queue(self) -> Queue:
        """RQ's own object."""
        from rq import Queue
        from rq.serializers import JSONSerializer

        return Queue(QUEUE_NAME, connection=self.connection(), serializer=JSONSerializer)

    def close(self) -> None:
        """Give the connection back."""
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    # one job

    def _put(self, name: str, project: int, job: JobName, at_front: bool) -> None:
        from rq import Retry

        self.queue().enqueue_call(
            ENTRY,
            args=(job, project),
            job_id=name,
            unique=True,
            at_front=at_front,
            timeout=TIMEOUT_S[job],
            result_ttl=0,
            failure_ttl=FAILURE_KEPT_S,
            retry=Retry(max=len(RETRY_AFTER_S), interval=list(RETRY_AFTER_S)),
            description=f"{job} of project {project}",
            meta={"job": job, "project": project},
        )

    def _fetch(self, name: str) -> Job | None:
        """None where there is none that can be read."""
        import redis
        from rq.exceptions import NoSuchJobError
        from rq.job import Job
        from rq.serializers import JSONSerializer

        try:
            return Job.fetch(name, connection=self.connection(), serializer=JSONSerializer)
        except NoSuchJobError:
            return None
        except UNREADABLE:
            return None
        except redis.ResponseError as error:
            if not is_other_kind(error):
                raise
            return None

    def _ids(self) -> list[str]:
        """Jobs that wait, run, are about to be run or will be tried again."""
        rq_queue = self.queue()
        ids = [*rq_queue.get_job_ids(), *rq_queue.intermediate_queue.get_job_ids()]
        for registry in (
            rq_queue.started_job_registry,
            rq_queue.scheduled_job_registry,
            rq_queue.deferred_job_registry,
        ):
            ids += registry.get_job_ids(cleanup=False)
        return ids

    def _is_lost(self, name: str) -> bool:
        """Whether a job that says that it waits or runs is nowhere, as where a list in Redis was lost."""
        return name not in self._ids() and self._state(name) in _LIVING

    def _remove(self, name: str) -> None:
        """Remove what Redis has in the place of a job."""
        from rq.job import Job

        _log.warning("what Redis has as job %s is none that will ever run: it is removed", name)
        self.connection().delete(Job.key_for(name))

    def _state(self, name: str) -> str | None:
        job = self._fetch(name)
        status = job.get_status(refresh=False) if job else None
        return None if status is None else str(getattr(status, "value", status))

    def _drop(self, name: str) -> None:
        job = self._fetch(name)
        if job is not None:
            job.delete()

    def _describe(self, name: str) -> JobState | None:
        job = self._fetch(name)
        if job is None:
            return None
        status = job.get_status(refresh=False)
        meta = dict(job.meta)
        project = meta.pop("project", 0)
        return JobState(
            id=name,
            name=str(meta.pop("job", "")),
            project=project if isinstance(project, int) else 0,
            state=str(getattr(status, "value", status)),
            progress=meta,
        )
