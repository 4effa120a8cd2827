"""Server processes that we start: a free port, a log file, a group of their own, a clean stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import ServerError
from usam.files import plain

if TYPE_CHECKING:
    from typing_extensions import Self


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """`preferred` where nothing listens on it, else a port the system gives. Raises `ServerError`."""
    reason = ""
    for port in (preferred, 0) if preferred else (0,):
        try:
            return check_port(port, host)
        except ServerError as error:
            reason = error.got
    raise ServerError(f"a free port on {host}", reason, "correct the address, or close some programs and start again")


def check_port(port: int, host: str = "127.0.0.1") -> int:
    """The port that a server told to listen on `port` gets: for 0 one that the system gives. Raises `ServerError` where
    it cannot listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    remedy = "end the program that is on it, or choose another (--port, USAM_PORT, USAM_HOST)"
    raise ServerError(f"port {port} of {host} to listen on", reason, remedy)


def identity(pid: int) -> str:
    """What tells a process from a later one of the same number: when it began. Empty where there is none."""
    try:  # Linux: exact
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return ""
    return done.stdout.strip()


SAID_EVERY_S = 20.0
"""How often somebody who waits for a start is told that it goes on."""


class ServerProcess:
    """One started program and all its children, as a process group that is stopped as a whole.

    Its output goes to `log`. Nothing starts before `start()`; `stop()` may be called any number of times. `say` is told
    now and then that a start is still under way.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name, self.command, self.log, self.say = name, list(command), log, say
        self.environment = dict(environment) if environment is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, also the id of its group; None before the start."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the program itself is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], timeout: float) -> None:
        """Start, then wait at most `timeout` seconds for `ready()`. Raises `ServerError` with the log's
        end."""
        if self._process is not None and self._process.poll() is None:
            return
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with plain(self.log).open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 (the command is ours)
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            remedy = "check that the program is installed"
            if isinstance(error, OSError) and error.filename != self.command[0]:
                remedy = "free space, remove what is in its place, or correct its rights"
            raise ServerError(f"{self.name} to start", str(error), remedy) from error
        began = said = time.monotonic()
        deadline = began + timeout
        while not ready():
            if time.monotonic() - said > SAID_EVERY_S:
                said = time.monotonic()
                self.say(f"{self.name}: still starting after {said - began:.0f} s; its log: {self.log}")
            if not self.running or time.monotonic() > deadline:
                state = f"no answer in {timeout:.0f} s" if self.running else f"exit status {self.returncode}"
                self.stop()
                raise ServerError(
                    f"{self.name} to come up", f"{state}: ...{self.log_tail()}", f"see its log {self.log}"
                )
            time.sleep(0.1)

    @property
    def returncode(self) -> int | None:
        """Exit status of the program; None while it runs or before it started."""
        return self._process.poll() if self._process else None

    @property
    def ending(self) -> str:
        """How it ended, in words: `exit status 3`, `signal 9`; `not at all` where it runs."""
        code = self.returncode
        return "not at all" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"

    def log_tail(self, characters: int = 400) -> str:
        """The end of what the program printed."""
        try:
            return plain(self.log).read_text(errors="replace")[-characters:].strip()
        except OSError:
            return ""

    def stop(self, grace: float = 10.0) -> None:
        """Ask the whole group to end; kill what is left after `grace` seconds."""
        process = self._process
        if process is None:
            return
        for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and self._group_alive(process):
                time.sleep(0.05)
        process.wait(timeout=5)

    @staticmethod
    def _group_alive(process: subprocess.Popen[bytes]) -> bool:
        process.poll()  # reaps the leader, which would count as alive until then
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(ABC):
    """A server in a process of our own. Use as a context manager, or `start()` and `stop()`; its data stays."""

    _process: ServerProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server, None before the start."""
        return self._process.pid if self._process else None

    @property
    def process(self) -> ServerProcess | None:
        """The server's process, None before the start."""
        return self._process

    @abstractmethod
    def start(self, timeout: float = 60.0) -> Self:
        """Start and wait until it answers. Raises `ServerError`."""

    def stop(self) -> None:
        """End it and its children."""
        if self._process:
            self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
