"""RQ's worker as we run it: it notices within seconds that another is lost, and looks after the timer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from rq import Worker, worker_registration
from rq.serializers import JSONSerializer

from backend.jobs.abandoned import SILENT_S, reclaim, worker_name
from backend.queue import QUEUE_NAME, JobQueue

MAINTENANCE_S = 5
MONITORING_S = 3
WORKER_TTL_S = 20
"""RQ listens 15 s less for a job before it looks around; its own 420 leave a worker deaf for 405 s."""
_log = logging.getLogger(__name__)


class WatchedWorker(Worker):
    """A worker on `queue`. `on_beat` is called every few seconds in the worker's own process."""

    asked = False
    """Whether somebody asked for the end: RQ's loop also ends, quietly, when Redis fails under a job."""

    def __init__(self, queue: JobQueue, on_beat: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            [queue.queue()],
            name=worker_name(),
            connection=queue.connection(),
            serializer=JSONSerializer,
            maintenance_interval=MAINTENANCE_S,
            job_monitoring_interval=MONITORING_S,
            worker_ttl=WORKER_TTL_S,
        )
        self._jobs, self._on_beat, self._own_pid = queue, on_beat, os.getpid()

    def handle_warm_shutdown_request(self) -> None:
        """Note that it was asked for."""
        WatchedWorker.asked = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def get_heartbeat_ttl(self, job: Any, working_time: float = 0.0) -> int:
        """Seconds after which a running job of a worker that says nothing is another's."""
        return SILENT_S

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """As RQ's, and `on_beat`."""
        super().heartbeat(timeout, pipeline)
        if os.getpid() == self._own_pid:
            self._on_beat()
            self._stay_known()

    def _stay_known(self) -> None:
        """Be in the list of workers, also of a Redis that was begun anew under a worker that lives."""
        if not self.connection.sismember(f"{self.redis_workers_keys}:{QUEUE_NAME}", self.key):
            with self.connection.pipeline() as pipeline:
                pipeline.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipeline)
                pipeline.execute()

    def clean_registries(self) -> None:
        """As RQ's, after putting back what lost workers left, without waiting for RQ's lock: it may be theirs."""
        try:
            reclaim(self._jobs)
        except redis.RedisError as error:
            _log.info("lost jobs not looked for: %s", type(error).__name__)
        super().clean_registries()  # type: ignore[no-untyped-call]

    def main_work_horse(self, job: Any, queue: Any) -> None:
        """Run one job in the forked process, which ends with its worker: the job would be run twice otherwise."""
        threading.Thread(target=_end_with, args=(self._own_pid,), name="usam-parent", daemon=True).start()
        super().main_work_horse(job, queue)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
