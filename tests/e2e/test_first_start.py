"""A first start of a real Label Studio that is killed while it makes its database: the next one mends it."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from backend.errors import ServerError
from backend.local.label_studio_server import LabelStudioServer

pytestmark = pytest.mark.e2e


def steps_done(folder: Path) -> int:
    """How many of its database's steps a Label Studio has made."""
    database = folder / "data" / "label_studio.sqlite3"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM django_migrations").fetchone()[0])
    return 0


def interrupt_first_start(server: LabelStudioServer, steps: int) -> None:
    """Start it, and kill it once its database has so many steps."""

    def start() -> None:
        with suppress(ServerError):
            server._start(240)

    thread = threading.Thread(target=start)
    thread.start()
    deadline = time.monotonic() + 200
    while steps_done(server.folder) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert server.pid is not None
    os.killpg(server.pid, signal.SIGKILL)
    thread.join(60)


@pytest.mark.parametrize("steps", [3, 150])
def test_the_next_start_mends_it(label_studio_program: Path, tmp_path: Path, steps: int) -> None:
    interrupt_first_start(LabelStudioServer(label_studio_program, tmp_path), steps)
    said: list[str] = []
    server = LabelStudioServer(label_studio_program, tmp_path, say=said.append)
    try:
        server.start()
        headers = {"Authorization": f"Token {server.account.token}"}
        made = httpx.post(f"{server.url}/api/projects", json={"title": "after all"}, headers=headers, timeout=60)
        assert made.status_code == 201, "it works, with the account that was made for it"
        aside = list((tmp_path / "data").glob("*.unfinished-*"))
        put_away = [line for line in said if "still starting" not in line]
        assert bool(aside) == bool(put_away), "what was put away is said"
    finally:
        server.stop()
