"""The worker: an RQ worker that runs each job in a process of its own, and a timer that finds work events missed.

A job that dies takes no worker with it. Libraries are loaded once, before the first job, so that a job starts fast;
nothing is computed in the parent, whose threads a fork would not survive.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import time
from types import FrameType

from backend.errors import QueueError, reason_of
from backend.queue import JobQueue, open_queue
from backend.settings import Settings
from backend.store import Store
from backend.store.database import STORE_ERRORS

REDIS_PATIENCE_S = 2.0
TIMER_BACK_OFF_S = 10.0
PRELOADED = (
    "backend.inference.model",
    "backend.jobs.acceptance",
    "backend.jobs.retrain",
    "backend.jobs.score_pool",
    "backend.jobs.score_shard",
    "backend.jobs.sync",
    "label_studio_sdk.label_interface",
    "sam2.sam2_image_predictor",
    "usam.checkpoints.nano",
    "usam.predictor.proposals",
    "usam.training.adaptation",
)
_log = logging.getLogger(__name__)


def work(settings: Settings, *, burst: bool = False) -> None:
    """Work until stopped (SIGTERM or Ctrl-C end it after the present job; a second one at once).

    With `burst`, return once the queue is empty. Raises `QueueError` where Redis's address is malformed.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request, with its address
    timer = None if burst else Timer(settings)
    try:
        _work_on(open_queue(settings), timer, burst)
    finally:
        if timer is not None:
            timer.stop()


class Timer:
    """The process that wakes `sync`. Started by the first `keep()`, and again by a later one where it died."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._own_pid = settings, os.getpid()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._started_at = float("-inf")

    @property
    def pid(self) -> int | None:
        """Process id, None before the first `keep()`."""
        return self._process.pid if self._process is not None else None

    def keep(self) -> None:
        """See to it that the process lives. One that dies at once is not started again before `TIMER_BACK_OFF_S`."""
        if self._process is not None:
            if self._process.is_alive() or time.monotonic() - self._started_at < TIMER_BACK_OFF_S:
                return
            _log.warning("the timer ended (exit status %s); starting it again", self._process.exitcode)
        self._process = multiprocessing.get_context("spawn").Process(
            target=tick_forever, args=(self._settings, self._own_pid), name="usam-timer", daemon=True
        )
        self._process.start()
        self._started_at = time.monotonic()

    def stop(self) -> None:
        """End the process. A fork that is interrupted passes by here too, and ends nothing."""
        if self._process is not None and os.getpid() == self._own_pid:
            self._process.terminate()
            self._process.join(5)


def _work_on(queue: JobQueue, timer: Timer | None, burst: bool) -> None:
    import redis
    from rq.exceptions import StopRequested

    from backend.jobs.queue_mending import mend_queue
    from backend.jobs.watched_worker import WatchedWorker

    if timer is not None:
        timer.keep()
    preload()
    while not WatchedWorker.asked:
        try:
            mend_queue(queue)
            worker = WatchedWorker(queue, timer.keep if timer is not None else lambda: None)
            worker.work(burst=burst, with_scheduler=not burst, logging_level="WARNING")
            if burst or WatchedWorker.asked:
                return
            _log.warning("the worker's loop ended by itself; beginning again")
        except StopRequested:
            return
        except (redis.RedisError, OSError) as error:
            if burst:
                raise QueueError("Redis to answer", type(error).__name__, "check REDIS_URL") from error
            _log.warning("Redis does not answer (%s); trying again", reason_of(error))
        try:
            time.sleep(REDIS_PATIENCE_S)
        except StopRequested:  # the signals still go to the worker that ended
            return


def preload() -> None:
    """Import what jobs need, which takes seconds; compute nothing."""
    for name in PRELOADED:
        importlib.import_module(name)
    _log.info("worker ready")


def tick_forever(settings: Settings, parent: int) -> None:
    """Wake `sync` for every project, every `sync_seconds`, until the worker `parent` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker ends the timer
    signal.signal(signal.SIGTERM, _leave)
    queue = open_queue(settings)
    while os.getppid() == parent:
        tick(settings, queue)
        waited = 0.0
        while waited < settings.sync_seconds and os.getppid() == parent:
            time.sleep(min(1.0, settings.sync_seconds - waited))
            waited += 1.0


def tick(settings: Settings, queue: JobQueue) -> int:
    """Wake `sync` for every project that is ours to look after; returns how many Redis took."""
    try:
        store = Store(settings.store_url)
        try:
            projects = store.projects()
        finally:
            store.close()
    except STORE_ERRORS as error:
        _log.warning("the timer could not read the store: %s", reason_of(error))
        return 0
    return sum(queue.wake(project, "sync") for project in projects)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)
