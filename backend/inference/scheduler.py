"""Who may use the model next: one thread, jobs cut into steps, the most urgent job first after every step.

A job is a generator: what it does between two `yield`s is a step. A click on an encoded image therefore waits for one
step of others at most, however long a batch is and however many images wait to be encoded.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

from backend.errors import EngineBusy, EngineStopped
from backend.metrics.service import Metrics
from usam.errors import UsamError

Result = TypeVar("Result")
Steps = Generator[None, None, Result]

LONGEST_RETRY_AFTER = 60.0
log = logging.getLogger(__name__)


class Priority(IntEnum):
    """Who goes first."""

    CLICK = 0
    COLD_CLICK = 1
    """On an image that has to be encoded first: a click that needs no encoding goes before all of them."""
    BATCH = 2
    AHEAD = 3


@dataclass(order=True)
class _Job(Generic[Result]):
    priority: int
    order: int
    steps: Steps[Result] = field(compare=False)
    future: Future[Result] = field(compare=False)


class StepScheduler:
    """Runs jobs in one thread. `prepare` is called in it first; what it raises, every job gets.

    `queue_limit` jobs of one priority may wait, and a caller waits `wait_seconds` at most.
    `out_of_memory` is called where a step had no memory left.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        *,
        queue_limit: int,
        wait_seconds: float,
        metrics: Metrics,
        out_of_memory: Callable[[], None],
    ) -> None:
        self._prepare = prepare
        self._queue_limit = queue_limit
        self._wait_seconds = wait_seconds
        self._metrics = metrics
        self._out_of_memory = out_of_memory
        self._lock = threading.Condition()
        self._heap: list[_Job[Any]] = []
        self._order = itertools.count()
        self._step_seconds = 0.2
        self.stopped = False
        self.failure: UsamError | None = None
        self.prepared = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def run(self, priority: Priority, steps: Steps[Result]) -> Result:
        """Run a job and wait for its result.

        Raises what the job raises, `EngineBusy` when too many wait or no turn came in time, `EngineStopped`.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self.stopped:
                raise _stopped()
            waiting = sum(job.priority == priority for job in self._heap)
            if waiting < self._queue_limit:
                heapq.heappush(self._heap, _Job(int(priority), next(self._order), steps, future))
                self._lock.notify_all()
        if waiting >= self._queue_limit:
            raise self.busy(f"{waiting} jobs wait already")
        try:
            return future.result(self._wait_seconds)
        except FutureTimeout:
            future.cancel()
            raise self.busy(f"no turn within {self._wait_seconds:g} s") from None
        except CancelledError:
            raise _stopped() from None

    def refuse_when_full(self, priority: Priority) -> None:
        """Raise `EngineBusy` now, before anything is fetched for a job that would not be taken."""
        if self.stopped:
            raise _stopped()
        with self._lock:
            waiting = sum(job.priority == priority for job in self._heap)
        if waiting >= self._queue_limit:
            raise self.busy(f"{waiting} jobs wait already")

    def busy(self, why: str) -> EngineBusy:
        """The error that says to come back later, and when: once those who wait will have had a step each."""
        self._metrics.busy.inc()
        with self._lock:
            waiting = len(self._heap)
        return EngineBusy(
            "room in the engine's queue",
            why,
            "try again later",
            retry_after=min(LONGEST_RETRY_AFTER, max(1.0, waiting * self._step_seconds)),
        )

    def close(self) -> None:
        """Stop after the present step; jobs that wait get `EngineStopped`."""
        with self._lock:
            self.stopped = True
            self._lock.notify_all()
        self._thread.join(timeout=60)

    def _work(self) -> None:
        try:
            self._prepare()
        except UsamError as error:
            self.failure = error
        except Exception as error:
            log.exception("the model could not be loaded")
            self.failure = UsamError("a model that loads", f"{type(error).__name__}: {error}", "see the log")
        self.prepared.set()
        while (job := self._next()) is not None:
            self._step(job)
        with self._lock:
            left, self._heap = self._heap, []
        for job in left:
            if not job.future.cancel():
                job.future.set_exception(_stopped())

    def _next(self) -> _Job[Any] | None:
        with self._lock:
            while not self._heap and not self.stopped:
                self._lock.wait()
            return None if self.stopped else heapq.heappop(self._heap)

    def _step(self, job: _Job[Any]) -> None:
        if not job.future.running() and not job.future.set_running_or_notify_cancel():
            return
        if self.failure is not None:
            job.future.set_exception(self.failure)
            return
        started = time.perf_counter()
        try:
            next(job.steps)
        except StopIteration as done:
            job.future.set_result(done.value)
        except BaseException as error:
            job.future.set_exception(self._explained(error))
        else:
            with self._lock:
                heapq.heappush(self._heap, job)
        self._step_seconds += 0.1 * (time.perf_counter() - started - self._step_seconds)
        with self._lock:
            counts = {p: sum(job.priority == p for job in self._heap) for p in Priority}
        for priority, count in counts.items():
            self._metrics.waiting.labels(priority.name.lower()).set(count)

    def _explained(self, error: BaseException) -> BaseException:
        """No memory becomes `EngineBusy`, once some has been made."""
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            self._out_of_memory()
            return self.busy("no memory is left")
        if not isinstance(error, UsamError):
            log.error("a job failed", exc_info=error)
        return error


def finish(steps: Steps[Result]) -> Result:
    """All steps at once, for those who share the model with nobody."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result


def _stopped() -> EngineStopped:
    return EngineStopped("a running engine", "a closed one", "start the service again")
