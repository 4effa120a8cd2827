"""Urgent jobs go first after every step; nothing waits without bound."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import EngineBusy
from backend.inference.scheduler import Priority, Steps, StepScheduler, finish
from backend.metrics.service import Metrics


def scheduler(**given: object) -> StepScheduler:
    options = {"queue_limit": 2, "wait_seconds": 5.0, "metrics": Metrics(), "out_of_memory": lambda: None, **given}
    return StepScheduler(lambda: None, **options)  # type: ignore[arg-type]


def test_urgent_jobs_go_first_after_every_step() -> None:
    running = scheduler(queue_limit=10)
    log: list[str] = []
    started, go = threading.Event(), threading.Event()

    def job(name: str, steps: int) -> Steps[None]:
        for number in range(steps):
            if name == "batch" and number == 1:
                started.set()
                go.wait(5)
            log.append(f"{name}{number}")
            yield

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(running.run, Priority.BATCH, job("batch", 3))]
        started.wait(5)
        waiting.append(pool.submit(running.run, Priority.AHEAD, job("ahead", 1)))
        waiting.append(pool.submit(running.run, Priority.COLD_CLICK, job("cold", 2)))
        waiting.append(pool.submit(running.run, Priority.CLICK, job("click", 2)))
        time.sleep(0.1)
        go.set()
        for one in waiting:
            one.result(5)
    running.close()
    assert log == ["batch0", "batch1", "click0", "click1", "cold0", "cold1", "batch2", "ahead0"]


def test_too_many_waiting_jobs_are_refused_and_late_ones_given_up() -> None:
    running = scheduler(wait_seconds=0.3)
    go, begun = threading.Event(), threading.Event()

    def block() -> Steps[None]:
        begun.set()
        go.wait(10)
        return
        yield

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.run, Priority.CLICK, block())
        assert begun.wait(5)
        others = [pool.submit(running.run, Priority.CLICK, block()) for _ in range(3)]
        refused = [other.exception(5) for other in others]
        assert all(isinstance(error, EngineBusy) for error in refused)
        assert sum("wait already" in str(error) for error in refused) == 1
        assert sum("no turn within" in str(error) for error in refused) == 2
        assert isinstance(first.exception(5), EngineBusy)
        go.set()
    deadline = time.monotonic() + 10
    while True:  # those that were given up leave the queue when their turn would come
        try:
            assert running.run(Priority.CLICK, block()) is None
            break
        except EngineBusy:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    running.close()


def test_no_memory_makes_room_and_says_busy() -> None:
    freed = []
    running = scheduler(out_of_memory=lambda: freed.append(1))

    def greedy() -> Steps[None]:
        raise MemoryError
        yield

    with pytest.raises(EngineBusy, match="no memory"):
        running.run(Priority.BATCH, greedy())
    running.close()
    assert freed == [1]


def test_steps_run_at_once_for_those_who_share_with_nobody() -> None:
    steps: list[int] = []

    def job() -> Steps[str]:
        for number in range(3):
            steps.append(number)
            yield
        return "done"

    assert finish(job()) == "done"
    assert steps == [0, 1, 2]
