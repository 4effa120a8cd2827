"""A private, real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.local.redis_server import RedisServer
from backend.queue import JobQueue


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[JobQueue]:
    queue = JobQueue(redis_server.url)
    yield queue
    queue.close()
