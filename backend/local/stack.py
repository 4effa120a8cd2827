"""Everything that `make run` starts, as one thing: Redis, Label Studio, the backend and workers.

    Redis         private, unless REDIS_URL names one
    Label Studio  private, unless LABEL_STUDIO_URL names one
    backend       `usam-backend serve`
    worker        `usam-backend worker`, once or more

Ports that are taken are replaced by free ones. All data stays in one folder, so that a second start goes on
where the first stopped. A process that dies is started again; a run that was killed leaves nothing that a
new one trips over.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx

from backend.addresses import PROCESS_HEADER
from backend.errors import ServerError, SettingsError
from backend.label_studio.client import LabelStudio
from backend.local.label_studio_server import LabelStudioServer, find_label_studio, install_label_studio
from backend.local.processes import ServerProcess, free_port, identity
from backend.local.redis_server import RedisServer
from backend.local.running import announce, recall, remember, withdraw
from backend.local.supervisor import Part, Supervisor
from backend.settings import Settings
from backend.store.mending import set_aside_misplaced
from usam.files import open_lock

LABEL_STUDIO_PORT = 8080
LEFTOVER_PATIENCE_S = 5.0
PORT_TRIES = 3


class Command:
    """`usam-backend ARGUMENTS` as a part of the stack."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        log: Path,
        environment: dict[str, str],
        ready: Callable[[ServerProcess], bool] | None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        command = [sys.executable, "-m", "backend.cli.main", *arguments]
        self._process = ServerProcess(name, command, log=log, environment=environment, say=say)
        self._ready = ready

    @property
    def process(self) -> ServerProcess:
        """Its process."""
        return self._process

    def restart(self, patience: float = 120.0) -> None:
        """Start it and wait until it is ready; without a question to ask, until it has lived for a second."""
        started = time.monotonic()
        ready = self._ready or (lambda process: process.running and time.monotonic() - started > 1.0)
        self._process.start(lambda: ready(self._process), patience)


class Stack:
    """The parts on the data in `settings.data_dir`. A context manager: leaving it stops what it started.

    `files` is the folder Label Studio may serve pictures from; `root` where its environment lives; `say` is
    told each step. Several `workers` share the processor's cores.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        files: Path,
        root: Path,
        workers: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings, self.files, self.root, self.workers, self.say = settings, files, root, workers, say
        self.folder = settings.data_dir.resolve()
        self.label_studio: LabelStudioServer | None = None
        self.label_studio_url = settings.label_studio_url
        self.token = settings.label_studio_api_key.get_secret_value()
        self.redis_url = settings.redis_url.get_secret_value()
        self.backend_url = ""
        self._cleanup = ExitStack()
        self._parts: dict[str, Part] = {}
        self._supervisor = Supervisor(say)
        self._stopping = threading.Event()

    def __enter__(self) -> Stack:
        try:
            self.start()
        except OSError as error:
            self.stop()
            raise ServerError(
                f"the data folder {self.folder} to be used",
                f"{error.filename or self.folder}: {error.strerror or error}",
                "free space, remove what is in its place, correct its rights, or set USAM_DATA_DIR",
            ) from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the parts in order. Raises `ServerError` with the end of the log of the one that does not
        come up."""
        self._lock()
        self._end_leftovers()
        self._start_redis()
        self._start_label_studio()
        self._start_backend()
        self._start_workers()
        self._remember()
        path = announce(self.folder, self.environment)
        self._cleanup.callback(withdraw, self.folder)
        self.say(f"settings for other shells, yours alone: {path}")
        for name, part in self._parts.items():
            self._supervisor.add(name, part)
        self._supervisor.begin(after=self._remember)
        self._cleanup.callback(self._supervisor.stop)

    def stop(self) -> None:
        """Stop what was started, the last first. Data stays."""
        self._stopping.set()
        self._cleanup.close()

    def client(self) -> LabelStudio:
        """A client of the Label Studio in use."""
        return LabelStudio(self.label_studio_url, self.token)

    @property
    def environment(self) -> dict[str, str]:
        """What the backend and the worker are told, and what another shell needs to talk to this stack and to decide
        as it does: what its user set, and what was found at start."""
        return {
            **{name: value for name, value in os.environ.items() if name.startswith("USAM_")},
            "LABEL_STUDIO_URL": self.label_studio_url,
            "LABEL_STUDIO_API_KEY": self.token,
            "REDIS_URL": self.redis_url,
            "USAM_DATA_DIR": str(self.folder),
            "USAM_HOST": self.settings.host,
            "USAM_PORT": self.backend_url.rsplit(":", 1)[-1],
            "USAM_MODEL": self.settings.model,
            "USAM_RETRAIN_AFTER": str(self.settings.retrain_after),
        }

    def watch(self) -> None:
        """Block until `stop()` or an interrupt. What dies is started again in the meantime, and before."""
        while not self._stopping.wait(1.0):
            continue

    # the parts

    def _start_redis(self) -> None:
        if self.redis_url:
            self.say("Redis: the one at REDIS_URL")
            return
        server = RedisServer(self.folder / "redis", say=self.say)
        server.start()
        self._cleanup.callback(server.stop)
        self._parts["Redis"] = server
        self.redis_url = server.url
        self.say("Redis: private, started")

    def _start_label_studio(self) -> None:
        if self.label_studio_url:
            if not self.token:
                raise SettingsError(
                    "LABEL_STUDIO_API_KEY beside LABEL_STUDIO_URL", "none", "copy a token from Account & Settings"
                )
            self.say(f"Label Studio: the one at {self.label_studio_url}")
            return
        program = find_label_studio(self.root) or install_label_studio(self.root, say=self.say)
        folder = self.folder / "label-studio"
        first = not (folder / "data").exists()
        self.say("Label Studio: starting" + (" for the first time, which takes half a minute" if first else ""))
        port = self._last_ports().get("label_studio", LABEL_STUDIO_PORT)
        server = LabelStudioServer(program, folder, port=port, files=self.files, say=self.say)
        server.start()
        self._cleanup.callback(server.stop)
        self._parts["Label Studio"] = server
        self.label_studio, self.label_studio_url, self.token = server, server.url, server.account.token

    def _start_backend(self) -> None:
        self.say("backend: starting")
        host = self.settings.host
        for tries_left in reversed(range(PORT_TRIES)):
            port = free_port(self._last_ports().get("backend", self.settings.port), host)
            self.backend_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            try:
                return self._start_command("backend", ["serve"], self._backend_answers)
            except ServerError:
                if not tries_left or free_port(port, host) == port:  # nobody was faster at this port
                    raise

    def _start_workers(self) -> None:
        threads = self.settings.threads or (shared_cores(self.workers) if self.workers > 1 else 0)
        told = {"USAM_THREADS": str(threads)} if threads else {}
        for number in range(1, self.workers + 1):
            name = "worker" if number == 1 else f"worker-{number}"
            self.say(f"{name}: starting")
            self._start_command(name, ["worker"], told=told)

    def _start_command(
        self,
        name: str,
        arguments: list[str],
        ready: Callable[[ServerProcess], bool] | None = None,
        told: Mapping[str, str] | None = None,
    ) -> None:
        log = self.folder / "logs" / f"{name}.log"
        command = Command(name, arguments, log, {**os.environ, **self.environment, **(told or {})}, ready, self.say)
        self._cleanup.callback(command.process.stop)
        command.restart()
        self._parts[name] = command

    def _backend_answers(self, process: ServerProcess) -> bool:
        """Whether it is this very process that answers: another run's may have been faster at the port."""
        try:
            answer = httpx.get(f"{self.backend_url}/health", timeout=2)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and answer.headers.get(PROCESS_HEADER) == str(process.pid)

    # one stack a folder, and nothing left over from a killed one

    def _lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(self.folder)
        for line in set_aside_misplaced(self.folder):
            self.say(line)
        lock = open_lock(self.folder / "up.lock")
        self._cleanup.callback(lock.close)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServerError(
                f"the folder {self.folder} for this run alone",
                "a run that uses it already",
                "stop that one, or set USAM_DATA_DIR to another folder",
            ) from None

    def _remember(self) -> None:
        groups = {}
        for name, part in self._parts.items():
            pid = part.process.pid if part.process is not None else None
            if pid is not None and name != "Redis":  # which is found by its socket
                groups[name] = {"pid": pid, "identity": identity(pid)}
        ports = {"backend": int(self.backend_url.rsplit(":", 1)[-1])}
        if self.label_studio is not None:
            ports["label_studio"] = self.label_studio.port
        remember(self.folder, {"groups": groups, "ports": ports})

    def _last_ports(self) -> dict[str, int]:
        """The ports of the last run: pages that are still open go on working."""
        ports = recall(self.folder).get("ports", {})
        if not isinstance(ports, dict):
            return {}
        return {name: port for name, port in ports.items() if isinstance(port, int) and 0 < port < 65536}

    def _end_leftovers(self) -> None:
        """End what a killed run left, where it is the very process that the run started: a number alone may have
        become another's."""
        groups = recall(self.folder).get("groups", {})
        for name, noted in groups.items() if isinstance(groups, dict) else ():
            pid, began = (noted.get("pid"), noted.get("identity")) if isinstance(noted, dict) else (None, None)
            if isinstance(pid, int) and pid > 1 and began and identity(pid) == began:
                self.say(f"{name}: ending what a killed run left")
                end_group(pid)


def shared_cores(workers: int) -> int:
    """Threads for each of so many workers, at least one: more than there are cores only wait for each other."""
    return max(1, (os.cpu_count() or 1) // workers)


def make_private(folder: Path) -> None:
    """Take everybody else's rights to the data folder, and give nobody any to what this process makes from now on.

    Pictures and what is Label Studio's own may be many: behind the folder's own rights they stay as they are.
    """
    os.umask(0o077)
    folder.chmod(0o700)
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("label-studio", "pictures")]
        for name in files:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                path.chmod(0o600)


def end_group(pid: int, patience: float = LEFTOVER_PATIENCE_S) -> None:
    """Ask the process group to end, and kill it where it does not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, sign)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and identity(pid):
            time.sleep(0.05)
