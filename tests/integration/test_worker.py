"""The worker as a process, on a real Redis that is killed under a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.local.redis_server import RedisServer
from backend.queue import JobQueue

pytestmark = pytest.mark.integration


def test_a_worker_outlives_redis_killed_by_its_job_and_stops_when_asked(
    queue: JobQueue, redis_server: RedisServer, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "REDIS_URL": redis_server.url,
        "USAM_DATA_DIR": str(tmp_path / "data"),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "none",
        "USAM_SYNC_SECONDS": "600",
    }
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "backend.cli.main", "worker"]
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
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
    finally:
        worker.kill()
        worker.wait()


def wait_until(done: object, what: str, folder: Path) -> None:
    """Wait a minute at most for `done()`; fails with the worker's last words."""
    deadline = time.monotonic() + 60
    while not done():  # type: ignore[operator]
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}\n{(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.05)
