"""Shared fixtures. Tests marked `shared` run where USAM_SHARED names the folder of real data and weights."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from backend.local.redis_server import RedisServer
    from backend.queue import JobQueue

ROOT = Path(__file__).resolve().parents[1]
SHARED = os.environ.get("USAM_SHARED", "")

gc.set_threshold(20_000, 20, 20)  # a sixth of the time of the tests went to going through a million objects that stay


SLOW = (
    "tests/backend/local/test_stack.py",
    "tests/backend/local/test_supervisor.py",
    "tests/backend/local/test_label_studio_server.py",
    "tests/backend/test_compose.py",
    "tests/backend/test_plugin.py",
    "tests/backend/jobs/test_learnt.py",
    "tests/backend/jobs/test_tuned.py",
    "tests/backend/learning/test_grid_choice.py",
    "tests/backend/learning/test_label_plan.py",
    "tests/backend/web/test_fuzz.py",
    "tests/usam/predictor/test_memory_tracking.py",
    "tests/usam/research/",
    "tests/usam/test_image_bombs.py",
    "tests/usam/training/test_decoder_tuning.py",
    "tests/usam/training/test_search.py",
)
"""Files and folders that start servers, train, set off bombs, or repeat research on real pictures; as are tests that
need PostgreSQL."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        below = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        if below.startswith(SLOW) or "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    _long_files_first(items)
    if SHARED:
        return
    skip = pytest.mark.skip(reason="set USAM_SHARED to the folder of shared data to run this")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


def _long_files_first(items: list[pytest.Item]) -> None:
    """Begun last, one would run on while the other processes have nothing left. Within a file the order stays."""
    waits = ("e2e", "slow", "integration")
    turns: dict[Path, int] = {}
    for item in items:
        turn = next((turn for turn, mark in enumerate(waits) if mark in item.keywords), len(waits))
        turns[item.path] = min(turn, turns.get(item.path, turn))
    items.sort(key=lambda item: turns[item.path])


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """A runner of commands else makes all of them anew at each call."""
    from typer.main import get_command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command), raising=False)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real labelled data, published heads and golden values."""
    return Path(SHARED)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A private, real Redis."""
    from backend.local.redis_server import RedisServer

    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[JobQueue]:
    """The queue on that Redis."""
    from backend.queue import JobQueue

    queue = JobQueue(redis_server.url)
    yield queue
    queue.close()
