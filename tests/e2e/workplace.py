"""The service as processes of its own, beside a real Label Studio and Redis, as `usam-backend up` starts them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from backend.jobs.entry import run_job
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.label_studio.setup import connect
from backend.local.label_studio_server import LabelStudioServer
from backend.local.processes import ServerProcess, free_port
from backend.local.redis_server import RedisServer
from backend.queue import JobQueue
from backend.resources import Resources
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import Run
from usam.checkpoints.registry import weights_of
from usam.heads.head_set import HeadSet

CONFIG = """<View>
  <Image name="img" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="img"><Label value="thing"/></BrushLabels>
  <KeyPointLabels name="point" toName="img" smart="true"><Label value="thing" smart="true"/></KeyPointLabels>
</View>"""
HEADS = ("iou_nano_s", "iou_dense_prompt", "iou_unsupervised", "model_gap", "prompt_gap", "task_gap")
ProposedObjects = TypeVar("ProposedObjects")


def untrained_heads(path: Path, width: int) -> HeadSet:
    """Heads that know nothing yet, so that any label teaches them something."""
    rng = np.random.default_rng(0)

    def head() -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (rng.normal(0, 0.05, (32, 2 * width)).astype(np.float32), np.zeros(32, np.float32)),
            (rng.normal(0, 0.3, (16, 32)).astype(np.float32), np.zeros(16, np.float32)),
            (rng.normal(0, 0.3, (1, 16)).astype(np.float32), np.ones(1, np.float32)),
        ]

    heads = HeadSet.from_layers(
        {name: head() for name in HEADS}, alignment="aligned", checkpoint=weights_of("nano-s"), quality="iou_nano_s"
    )
    heads.save(path)
    return heads


def small_region(task: int) -> dict[str, Any]:
    """A small polygon that a mask of the model hardly ever matches: what the heads have to learn here."""
    x, y = 10 + 7 * (task % 9), 15 + 5 * (task % 13)
    return {
        "id": f"drawn{task}",
        "from_name": "brush",
        "to_name": "img",
        "type": "polygonlabels",
        "value": {"points": [[x, y], [x + 6, y], [x + 6, y + 6], [x, y + 6]], "polygonlabels": ["thing"]},
    }


@dataclass
class Workplace:
    """Everything of one test: the clients of Label Studio, Redis and the store, and the processes started."""

    resources: Resources
    label_studio: LabelStudio
    settings: Settings
    store: Store
    registry: Registry
    queue: JobQueue
    environment: dict[str, str]
    folder: Path
    cleanup: ExitStack
    project: int = 0
    processes: dict[str, ServerProcess] = field(default_factory=dict)

    def start(self, name: str, *arguments: str, ready: Callable[[], bool] = lambda: True) -> ServerProcess:
        """Start `usam-backend ARGUMENTS`."""
        process = ServerProcess(
            name,
            [sys.executable, "-m", "backend.cli.main", *arguments],
            log=self.folder / f"{name}.log",
            environment=self.environment,
        )
        process.start(ready, 120)
        self.processes[name] = process
        self.cleanup.callback(process.stop)
        return process

    def start_backend(self) -> str:
        """Start the HTTP service; returns its address once it is healthy."""
        url = f"http://127.0.0.1:{self.settings.port}"

        def healthy() -> bool:
            try:
                return httpx.get(f"{url}/health", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        self.start("backend", "serve", ready=healthy)
        return url

    def new_project(self, pictures: list[Path]) -> int:
        """A project with these pictures, looked after."""
        made = self.label_studio.create_project("end to end", CONFIG, sampling=UNCERTAINTY_SAMPLING)
        self.label_studio.upload(made.id, pictures)
        self.store.join(made.id, made.stamp)
        self.project = made.id
        return made.id

    def connect(self, url: str) -> None:
        """Connect the project to the backend, as `usam-backend connect` does."""
        failed = [step for step in connect(self.label_studio, self.settings, self.project, url) if step.failed]
        assert failed == []

    def wait(self, what: str, look: Callable[[], ProposedObjects | None], seconds: float = 120) -> ProposedObjects:
        """Wait until `look()` finds something; the logs' ends are in the failure."""
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                logs = "\n".join(f"[{name}] {one.log_tail(1500)}" for name, one in self.processes.items())
                raise AssertionError(f"no {what} in {seconds} s\n{self.store.runs(self.project)}\n{logs}")
            time.sleep(0.1)

    def run_after(self, job: str, after: int, seconds: float = 120) -> Run:
        """The first run of a job numbered above `after` that has ended in `done` or `rejected`."""

        def look() -> Run | None:
            runs = [run for run in self.store.runs(self.project, job) if run.id > after]
            return next((run for run in reversed(runs) if run.state in ("done", "rejected")), None)

        return self.wait(f"finished {job}", look, seconds)

    def children(self, process: ServerProcess) -> list[int]:
        """Process ids of all descendants, those that left the group included."""
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found: list[int] = []
        todo = [process.pid]
        while todo:
            parent = todo.pop()
            below = [child for child, its in parents.items() if its == parent]
            found += below
            todo += below
        return found

    def kill(self, process: ServerProcess) -> None:
        """Kill a process and all its descendants: a worker's timer, and its job's process in a group of its own."""
        below = self.children(process)
        kill_group(process)
        for child in below:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def do(self, job: str) -> Run:
        """Run a job in this process; returns its record."""
        run_job(self.resources, job, self.project)
        return self.store.runs(self.project, job, limit=1)[0]

    def last(self) -> int:
        """Number of the newest run."""
        return max((run.id for run in self.store.runs(self.project, limit=1)), default=0)


def kill_group(process: ServerProcess) -> None:
    """Kill a process with its group."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.stop()


@contextmanager
def workplace(folder: Path, server: LabelStudioServer, redis: RedisServer, **settings: str) -> Iterator[Workplace]:
    """A workplace in `folder`; `settings` are variables of the environment, in small letters without prefix."""
    heads = folder / "heads.safetensors"
    untrained_heads(heads, 128)
    environment = {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.account.token,
        "REDIS_URL": redis.url,
        "USAM_DATA_DIR": str(folder / "data"),
        "USAM_PORT": str(free_port()),
        "USAM_MODEL": "nano-s",
        "USAM_HEADS": str(heads),
        "USAM_THREADS": "1",
        "USAM_POINTS_PER_SIDE": "4",
        "USAM_OWN_DECODER_SECONDS": "0",
        "USAM_PRED_IOU_THRESH": "0",
        "USAM_MAX_REGIONS": "5",
        "USAM_SYNC_SECONDS": "600",
        "OMP_NUM_THREADS": "1",
        **{f"USAM_{name.upper()}": value for name, value in settings.items()},
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with ExitStack() as cleanup:
            resources = cleanup.enter_context(Resources.open(Settings.from_environment()))
            yield Workplace(
                resources,
                resources.label_studio,
                resources.settings,
                resources.store,
                resources.registry,
                resources.queue,
                {**os.environ, **environment},
                folder,
                cleanup,
            )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
