"""Whatever lies where Redis keeps its data, it starts: what cannot be read is set aside by name, with a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.errors import ServerError
from backend.local.redis_server import RedisServer
from backend.queue import JobQueue

pytestmark = pytest.mark.integration

DAMAGE: dict[str, tuple[Callable[[Path], object], bool]] = {
    "cut at its end": (lambda path: path.write_bytes(path.read_bytes()[:-9]), False),
    "empty": (lambda path: path.write_bytes(b""), False),
    "missing": (lambda path: path.unlink(), False),
    "garbage": (lambda path: path.write_bytes(b"\x00\xffgarbage\r\n" * 90), True),
    "garbage at its start": (lambda path: path.write_bytes(b"garbage\r\n" + path.read_bytes()), True),
    "garbage in the middle": (
        lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xfe" * 40 + path.read_bytes()[60:]),
        True,
    ),
    "a named pipe": (lambda path: (path.unlink(), os.mkfifo(path)), True),
    "a snapshot's head": (lambda path: path.write_bytes(b"REDIS0009\xfa\x00broken" * 20), True),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_it_starts_on_damaged_data_and_takes_jobs(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "redis"
    with RedisServer(folder) as server:
        queue = JobQueue(server.url)
        for project in range(1, 6):
            queue.wake(project, "sync")
        queue.close()
    (path,) = folder.glob("appendonly*")
    spoil, aside = DAMAGE[damage]
    spoil(path)
    said: list[str] = []
    with RedisServer(folder, say=said.append) as server:
        queue = JobQueue(server.url)
        assert queue.wake(7, "sync")
        assert "sync-7" in queue.queue().get_job_ids()
        queue.close()
    kept = [path.name for path in folder.glob("*.damaged-*")]
    assert len(kept) == len(said) == int(aside)
    assert all(name in said[0] for name in kept)


def test_another_failure_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer(tmp_path):
        pass
    monkeypatch.setattr("backend.local.redis_server.redis_binary", lambda: Path("/bin/false"))
    with pytest.raises(ServerError):
        RedisServer(tmp_path).start(5)
    assert list(tmp_path.glob("*.damaged-*")) == []
