"""Everything that `make run` starts, as one thing: Redis, Label Studio, the backend and a worker.

    Redis         private, unless REDIS_URL names one
    Label Studio  private, unless LABEL_STUDIO_URL names one
    backend       `usam-backend serve`
    worker        `usam-backend worker`

Ports that are taken are replaced by free ones. All data stays in one folder, so that a second start goes on
where the first stopped. A process that dies is started again; a run that was killed leaves nothing that a
new one trips over.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import httpx

from backend.errors import ServerError, SettingsError
from backend.label_studio.client import LabelStudio
from backend.local.label_studio_server import LabelStudioServer, find_label_studio, install_label_studio
from backend.local.processes import ServerProcess, free_port
from backend.local.redis_server import RedisServer
from backend.settings import Settings

LABEL_STUDIO_PORT = 8080
RESTART_AFTER_S = 2.0


class Stack:
    """The four parts on the data in `settings.data_dir`. A context manager: leaving it stops what it started.

    `files` is the folder Label Studio may serve pictures from; `root` where its environment lives; `say` is
    told each step.
    """

    def __init__(
        self, settings: Settings, *, files: Path, root: Path, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.settings, self.files, self.root, self.say = settings, files, root, say
        self.folder = settings.data_dir.resolve()
        self.label_studio: LabelStudioServer | None = None
        self.label_studio_url = settings.label_studio_url
        self.token = settings.label_studio_api_key.get_secret_value()
        self.redis_url = settings.redis_url.get_secret_value()
        self.backend_url = ""
        self._cleanup = ExitStack()
        self._children: dict[str, ServerProcess] = {}
        self._stopping = threading.Event()

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the parts in order. Raises `ServerError` with the end of the log of the one that does not
        come up."""
        self._lock()
        self._end_leftovers()
        self._start_redis()
        self._start_label_studio()
        self._start_backend()
        self._start_worker()
        self._remember()

    def stop(self) -> None:
        """Stop what was started, the last first. Data stays."""
        self._stopping.set()
        self._cleanup.close()

    def client(self) -> LabelStudio:
        """A client of the Label Studio in use."""
        return LabelStudio(self.label_studio_url, self.token)

    @property
    def environment(self) -> dict[str, str]:
        """What the backend and the worker are told, and what another shell needs to talk to this stack."""
        return {
            "LABEL_STUDIO_URL": self.label_studio_url,
            "LABEL_STUDIO_API_KEY": self.token,
            "REDIS_URL": self.redis_url,
            "USAM_DATA_DIR": str(self.folder),
            "USAM_HOST": self.settings.host,
            "USAM_PORT": self.backend_url.rsplit(":", 1)[-1],
        }

    def watch(self) -> None:
        """Block until `stop()` or an interrupt; start again what died."""
        while not self._stopping.wait(1.0):
            for name, child in self._children.items():
                if not child.running:
                    self.say(f"{name} ended (exit status {child.returncode}); starting it again, log {child.log}")
                    time.sleep(RESTART_AFTER_S)
                    try:
                        child.start(self._ready(name, child), 60)
                    except ServerError as error:
                        self.say(str(error))
            self._remember()

    # the parts

    def _start_redis(self) -> None:
        if self.redis_url:
            self.say("Redis: the one at REDIS_URL")
            return
        server = RedisServer(self.folder / "redis")
        server.start()
        self._cleanup.callback(server.stop)
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
        server = LabelStudioServer(program, folder, port=port, files=self.files)
        server.start()
        self._cleanup.callback(server.stop)
        self.label_studio, self.label_studio_url, self.token = server, server.url, server.account.token

    def _start_backend(self) -> None:
        port = free_port(self._last_ports().get("backend", self.settings.port), self.settings.host)
        self.backend_url = f"http://{self.settings.host}:{port}"
        self.say("backend: starting")
        self._start_child("backend", ["serve"])

    def _start_worker(self) -> None:
        self.say("worker: starting")
        self._start_child("worker", ["worker"])

    def _start_child(self, name: str, arguments: list[str]) -> None:
        child = ServerProcess(
            name,
            [sys.executable, "-m", "backend.cli.main", *arguments],
            log=self.folder / "logs" / f"{name}.log",
            environment={**os.environ, **self.environment},
        )
        child.start(self._ready(name, child), 120)
        self._children[name] = child
        self._cleanup.callback(child.stop)

    def _ready(self, name: str, child: ServerProcess) -> Callable[[], bool]:
        if name == "backend":
            return self._backend_answers
        started = time.monotonic()
        return lambda: child.running and time.monotonic() - started > 1.0

    def _backend_answers(self) -> bool:
        try:
            return httpx.get(f"{self.backend_url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    # one stack a folder, and nothing left over from a killed one

    def _lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "up.lock").open("a")
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
        groups = {name: child.pid for name, child in self._children.items()}
        if self.label_studio is not None:
            groups["label-studio"] = self.label_studio.pid
        ports = {"backend": int(self.backend_url.rsplit(":", 1)[-1])}
        if self.label_studio is not None:
            ports["label_studio"] = self.label_studio.port
        partial = self.folder / "up.json.partial"
        partial.write_text(json.dumps({"groups": groups, "ports": ports}))
        os.replace(partial, self.folder / "up.json")

    def _recall(self) -> dict[str, dict[str, int]]:
        try:
            found = json.loads((self.folder / "up.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _last_ports(self) -> dict[str, int]:
        """The ports of the last run: pages that are still open go on working."""
        return self._recall().get("ports", {})

    def _end_leftovers(self) -> None:
        for name, pid in self._recall().get("groups", {}).items():
            words = ("label-studio", "label_studio") if name == "label-studio" else ("backend.cli.main",)
            if isinstance(pid, int) and any(word in _command_of(pid) for word in words):
                self.say(f"{name}: ending what a killed run left")
                try:
                    os.killpg(pid, signal.SIGTERM)
                    time.sleep(1.0)
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def _command_of(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout
