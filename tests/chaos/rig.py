"""A real `usam-backend up` on a folder of its own, and hands to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.local.processes import identity
from backend.local.redis_server import RedisServer
from backend.local.running import recall, running_in
from backend.store import Store
from backend.store.head_registry import ABOUT_FILE, HEADS_FILE, POINTER_FILE
from tests.chaos.faults import Act, Fault, spoil
from tests.e2e.workplace import small_region
from tests.postgres_server import PostgresServer

PATIENCE_S = 240.0
SETTINGS = {
    "USAM_PORT": "0",
    "USAM_MODEL": "nano-s",
    "USAM_THREADS": "1",
    "USAM_POINTS_PER_SIDE": "4",
    "USAM_RETRAIN_AFTER": "5",
    "USAM_SYNC_SECONDS": "2",
    "OMP_NUM_THREADS": "1",
}
REGISTRY_FILES = {"pointer": POINTER_FILE, "version": ABOUT_FILE, "heads": HEADS_FILE}


class Rig:
    """The stack under test, and what a person did in it: `made`, `changed` and `deleted` are annotation ids that Label
    Studio confirmed; `unsure` counts requests whose answer was cut off."""

    def __init__(self, folder: Path, images: Path, database: PostgresServer | None = None) -> None:
        self._database = database
        self.data, self.images, self.log = folder / "var", images, folder / "up.log"
        self.made: set[int] = set()
        self.changed: set[int] = set()
        self.deleted: set[int] = set()
        self.unsure = 0
        self.project = 0
        self._up: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._environment = {**os.environ, **SETTINGS, "USAM_DATA_DIR": str(self.data)}
        self._store_url = database.create("usam") if database is not None else f"sqlite:///{self.data / 'usam.db'}"
        if database is not None:
            self._environment["USAM_DATABASE_URL"] = self._store_url
        for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL"):
            self._environment.pop(name, None)

    def start(self) -> None:
        """Start the stack and wait until it invites to label."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "backend.cli.main", "up", "--images", str(self.images)]
            self._up = subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)
        self._starts += 1

        def ready() -> bool:
            assert self._up is not None
            if self._up.poll() is not None:
                raise AssertionError(f"up ended: {self.tail()}")
            return "Open the project" in self.log.read_bytes()[begin:].decode(errors="replace")

        self.wait(ready, "the stack")
        with self.store() as store:
            (self.project,) = store.projects()

    def stop(self) -> None:
        """End the stack as a service manager does."""
        if self._up is not None and self._up.poll() is None:
            self._up.send_signal(signal.SIGTERM)
            try:
                self._up.wait(90)
            except subprocess.TimeoutExpired:
                self._up.kill()
                self._up.wait()

    def tail(self, characters: int = 2000) -> str:
        """The end of what `up` said."""
        return self.log.read_text(errors="replace")[-characters:]

    def store(self) -> _OpenStore:
        """The stack's store."""
        return _OpenStore(self._store_url)

    def client(self) -> LabelStudio:
        """A client of the stack's Label Studio."""
        stack = running_in(self.data)
        assert stack is not None, self.tail()
        return LabelStudio(stack.environment["LABEL_STUDIO_URL"], stack.environment["LABEL_STUDIO_API_KEY"])

    def wait(self, done: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> float:
        """Wait until `done()`; returns the seconds it took."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > seconds:
                raise AssertionError(f"no {what} in {seconds:.0f} s\n{self.tail()}")
            time.sleep(0.1)
        return time.monotonic() - started

    # faults

    def hurt(self, fault: Fault) -> None:
        """Do what the fault says."""
        if fault.kind == "kill up" or fault.part == "notes":
            assert self._up is not None
            self._up.kill()
            self._up.wait()
            if fault.part == "notes":  # by which the next start ends what this one left
                notes = self.data / "up.json"
                notes.write_bytes(spoil(notes.read_bytes(), fault.damage))
            self.start()
        elif fault.part == "database":
            self._restart_database(fault)
        elif fault.kind == "damage":
            self._damage(fault)
        elif fault.kind == "kill child":
            below = descendants(self.pid("worker"))
            if below:
                signal_to(below[int(fault.draw * len(below))], signal.SIGKILL)
        elif fault.kind == "stop":
            pid = self.pid(fault.part)
            signal_to(pid, signal.SIGSTOP)
            time.sleep(fault.seconds)
            signal_to(pid, signal.SIGCONT)
        else:
            before = self.pid(fault.part)
            signal_to(before, signal.SIGKILL)
            if fault.kind == "kill twice":
                self.wait(lambda: self.pid(fault.part) not in (0, before), f"another {fault.part}")
                signal_to(self.pid(fault.part), signal.SIGKILL)

    def _restart_database(self, fault: Fault) -> None:
        """Again and again while people label, or once and away for a while."""
        assert self._database is not None
        for number in range(fault.times if fault.kind == "restart" else 1):
            if number:
                self.work(fault.work[0], fault.draw)
                time.sleep(fault.seconds)
            self._database.stop("fast" if number % 2 else "immediate")
            if fault.kind == "stop":
                time.sleep(fault.seconds)
            self._database.start()

    def _damage(self, fault: Fault) -> None:
        if fault.part == "queue":  # only a server that is down reads its file again
            signal_to(self.pid("Redis"), signal.SIGKILL)
            paths = list((self.data / "redis").glob("appendonly.aof"))
        else:
            name = REGISTRY_FILES[fault.part]
            paths = sorted((self.data / "heads").rglob(name))
        for path in paths[-1:]:
            with suppress(FileNotFoundError):
                path.write_bytes(spoil(path.read_bytes(), fault.damage))

    def pid(self, part: str) -> int:
        """Process id of a part, 0 where it does not run."""
        if part == "Redis":
            import redis

            server = RedisServer(self.data / "redis")
            with suppress(redis.RedisError), redis.Redis(unix_socket_path=str(server.socket)) as client:
                return int(client.info("server")["process_id"])
            return 0
        noted = recall(self.data).get("groups", {}).get(part, {})
        pid = int(noted.get("pid") or 0)
        return pid if pid and identity(pid) == noted.get("identity") else 0

    # what a person does

    def work(self, act: Act, draw: float) -> None:
        """Add, change or delete an annotation, once Label Studio is there."""
        with self.client() as client:
            self.wait(lambda: healthy(client.url), "Label Studio")
            mine = sorted(self.made - self.deleted)
            try:
                if act == "add" or not mine:
                    tasks = [task.id for task in client.tasks(self.project)]
                    task = tasks[int(draw * len(tasks))]
                    self.made.add(client.annotate(task, [small_region(task + len(self.made))]).id)
                    return
                chosen = mine[int(draw * len(mine))]
                address = f"{client.url}/api/annotations/{chosen}/"
                headers = {"Authorization": f"Token {self._token()}"}
                if act == "change":
                    body = {"result": [small_region(chosen + len(self.changed) + 1)]}
                    httpx.patch(address, json=body, headers=headers, timeout=60).raise_for_status()
                    self.changed.add(chosen)
                else:
                    httpx.delete(address, headers=headers, timeout=60).raise_for_status()
                    self.deleted.add(chosen)
            except (LabelStudioError, httpx.HTTPError):
                self.unsure += 1
                if act == "delete" and mine:
                    self.deleted.add(chosen)  # whether it went is Label Studio's to say

    def _token(self) -> str:
        stack = running_in(self.data)
        assert stack is not None
        return stack.environment["LABEL_STUDIO_API_KEY"]

    def recovered(self) -> bool:
        """Whether all four parts answer."""
        stack = running_in(self.data)
        if stack is None or not all(self.pid(part) for part in ("worker", "Redis", "backend", "Label Studio")):
            return False
        backend = f"http://{stack.environment['USAM_HOST']}:{stack.environment['USAM_PORT']}"
        return healthy(stack.environment["LABEL_STUDIO_URL"]) and healthy(backend)


class _OpenStore(Store):
    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def healthy(url: str) -> bool:
    """Whether a server says that it is."""
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def signal_to(pid: int, sign: signal.Signals) -> None:
    """Send a signal, where the process is still there."""
    if pid > 1:
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    below, todo = [], [pid] if pid else []
    while todo:
        parent = todo.pop()
        children = sorted(child for child, its in parents.items() if its == parent)
        below += children
        todo += children
    return below
