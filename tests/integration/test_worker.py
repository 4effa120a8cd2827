"""The worker as a process, on a real Redis that is killed under a job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.local.redis_server import RedisServer
from backend.queue import JobQueue
from backend.store import Store

pytestmark = pytest.mark.integration


@contextmanager
def worker_process(redis_server: RedisServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with nothing to do of its own, killed in the end; what it says is in the folder's `log`."""
    environment = {
        **os.environ,
        "REDIS_URL": redis_server.url,
        "USAM_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "none",
        "USAM_SYNC_SECONDS": "600",
    }
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "backend.cli.main", "worker"]
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_outlives_redis_killed_by_its_job_and_stops_when_asked(
    queue: JobQueue, redis_server: RedisServer, tmp_path: Path
) -> None:
    with worker_process(redis_server, tmp_path) as worker:
        for turn in range(3):
            assert redis_server.pid is not None
            queue.queue().enqueue("os.kill", redis_server.pid, signal.SIGKILL.value)
            wait_until(lambda: not redis_server.answers(), "Redis to be killed", tmp_path)
            redis_server.start()
            made = tmp_path / f"made {turn}"
            queue.queue().enqueue("os.mkdir", str(made))
            wait_until(made.is_dir, "the worker to take a job", tmp_path)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


@pytest.fixture
def silent_label_studio() -> Iterator[str]:
    """The address of a Label Studio that takes connections and never answers: its job hangs."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_project_does_not_stall_after_its_worker_is_killed_twice(
    queue: JobQueue, redis_server: RedisServer, tmp_path: Path, silent_label_studio: str
) -> None:
    """The job runs again although both of its ids belong to the dead; and the timer, killed, comes back."""
    store = Store(f"sqlite:///{tmp_path / 'data' / 'usam.db'}")
    store.join(1)
    environment = {
        **os.environ,
        "REDIS_URL": redis_server.url,
        "USAM_DATA_DIR": str(tmp_path / "data"),
        "LABEL_STUDIO_URL": silent_label_studio,
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "USAM_SYNC_SECONDS": "1",
    }
    command = [sys.executable, "-m", "backend.cli.main", "worker"]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        running.append(process)
        return process

    def holder() -> str:
        registry = queue.queue().started_job_registry
        jobs = [queue.queue().fetch_job(name) for name in registry.get_job_ids(cleanup=False)]
        return next((job.worker_name for job in jobs if job is not None and job.worker_name), "")

    try:
        for _ in range(2):
            worker = start()
            wait_until(lambda pid=worker.pid: f":{pid}:" in holder(), "the worker to begin", tmp_path)
            wait_until(lambda: "sync-1-again" in {job.id for job in queue.states()}, "a second of a kind", tmp_path)
            worker.kill()
            worker.wait()
        assert {job.id for job in queue.states()} == {"sync-1", "sync-1-again"}
        third = start()
        wait_until(lambda: f":{third.pid}:" in holder(), "the third worker to begin", tmp_path, 30)
        timer = timer_of(third.pid)
        os.kill(timer, signal.SIGKILL)
        wait_until(lambda: timer_of(third.pid) not in (0, timer), "another timer", tmp_path)
    finally:
        for process in running:
            process.kill()
            process.wait()
        store.close()


def timer_of(worker: int) -> int:
    """The process that multiprocessing spawned for the worker's timer, 0 where there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == worker and b"spawn_main" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return 0


def wait_until(done: object, what: str, folder: Path, seconds: float = 60) -> None:
    """Wait `seconds` at most for `done()`; fails with the worker's last words."""
    deadline = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}\n{(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.05)


def test_a_worker_is_known_to_a_redis_that_was_emptied_under_it(
    queue: JobQueue, redis_server: RedisServer, tmp_path: Path
) -> None:
    with worker_process(redis_server, tmp_path):
        wait_until(lambda: queue.workers() == 1, "the worker", tmp_path)
        queue.connection().flushall()
        wait_until(lambda: queue.workers() == 1, "the worker to be known again", tmp_path, 20)
        made = tmp_path / "made"
        queue.queue().enqueue("os.mkdir", str(made))
        wait_until(made.is_dir, "the worker to take a job", tmp_path)
