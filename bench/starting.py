"""From the start of the service to its first answered click, and the memory of service and worker at rest and at work.

The service is the program itself (`usam-backend serve`), in a data folder of its own; Label Studio is not needed. The
worker stands for one: a process that has loaded what a worker loads, and a fork of it, as a job's is, in which the
model proposes on 64 prompts a picture, as `score_pool` does. A click is sent again until it is answered. Memory is the
proportional set size of a process and its children (what they share is counted once), at work the largest of twenty
readings a second, while the service answers clicks on pictures it has not seen. Without `/proc` only times are
measured.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from bench.clicks import WEB, _click, _picture
from bench.rows import Row, median_interval

MODEL = "nano-m"
STARTS = 5
CLICKS = 5
PATIENCE_S = 120.0
GRID = 8
MIB = 1 << 20


def run() -> list[Row]:
    """Every figure for the checkpoint that the service has by default."""
    return [*start_rows(STARTS), *memory_rows()]


def start_rows(starts: int) -> list[Row]:
    """Seconds to the first answered click, over some starts in one data folder: the first one makes the store."""
    seconds = []
    with tempfile.TemporaryDirectory() as name, _picture(WEB) as address:
        for _ in range(starts):
            started = time.perf_counter()
            with service(Path(name)) as (_, url):
                first_click(url, address)
                seconds.append(time.perf_counter() - started)
    low, high = median_interval(seconds)
    note = f"{starts} starts, 95 % [{low:.1f}, {high:.1f}] s, the very first {seconds[0]:.1f} s"
    return [Row(f"start of the service to the first answered click, {MODEL}", median(seconds), "s", note=note)]


def memory_rows() -> list[Row]:
    """Memory of the service and of a worker, at rest and at work; none where the system does not tell."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        address = stack.enter_context(_picture(WEB))
        process, url = stack.enter_context(service(Path(name)))
        first_click(url, address)
        at_rest = memory(process.pid)
        at_work = peak(process.pid, lambda: clicks(url))
    with tempfile.TemporaryDirectory() as name:
        worker_rest, worker_work = worker_memory(Path(name))
    note = f"proportional set size with children; {CLICKS} cold clicks on pictures of {WEB[1]} x {WEB[0]}"
    worker_note = f"proportional set size with children; {GRID**2} prompts on {CLICKS} pictures of {WEB[1]} x {WEB[0]}"
    return [
        Row(f"memory of the service at rest, {MODEL}", at_rest / MIB, "MiB", note=note),
        Row(f"memory of the service at work, {MODEL}", at_work / MIB, "MiB", note=note),
        Row(f"memory of a worker at rest, {MODEL}", worker_rest / MIB, "MiB", note=worker_note),
        Row(f"memory of a worker at work, {MODEL}", worker_work / MIB, "MiB", note=worker_note),
    ]


@contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`usam-backend serve` in a process, on a port that is free; not waited for."""
    from backend.local.processes import free_port

    port = free_port(0, "127.0.0.1")
    told = {"USAM_DATA_DIR": str(folder), "USAM_MODEL": MODEL, "USAM_ALLOWED_HOSTS": "127.0.0.1"}
    with program(["serve", "--port", str(port)], told) as process:
        yield process, f"http://127.0.0.1:{port}"


@contextmanager
def program(arguments: list[str], told: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `usam-backend` until the block ends, its output thrown away."""
    command = [sys.executable, "-m", "backend.cli.main", *arguments]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **told}, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def first_click(url: str, picture: str) -> None:
    """Click until there is an answer. Raises `TimeoutError` after `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    rng = np.random.default_rng(0)
    with httpx.Client(timeout=60, trust_env=False) as client:
        while time.monotonic() < end:
            try:
                _click(client, url, picture, WEB, rng)
            except (httpx.HTTPError, KeyError, AssertionError):
                time.sleep(0.05)
            else:
                return
    raise TimeoutError(f"no click was answered within {PATIENCE_S:g} s")


def clicks(url: str) -> None:
    """Clicks on pictures that the service has not seen."""
    rng = np.random.default_rng(1)
    with httpx.Client(timeout=60, trust_env=False) as client:
        for number in range(CLICKS):
            with _picture((WEB[0] + number, WEB[1])) as address:
                _click(client, url, address, (WEB[0] + number, WEB[1]), rng)


def worker_memory(folder: Path) -> tuple[float, float]:
    """Bytes of a worker that has loaded its libraries and waits, and of one whose job proposes."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=_worker, args=(str(folder), ready, go))
    process.start()
    try:
        if not ready.wait(PATIENCE_S) or process.pid is None:
            raise TimeoutError("the worker did not come up")
        at_rest = memory(process.pid)
        go.set()
        return at_rest, peak(process.pid, lambda: process.join(PATIENCE_S))
    finally:
        process.terminate()
        process.join()


def _worker(folder: str, ready: Any, go: Any) -> None:
    """What `usam-backend worker` does before its first job, and then a job in a fork."""
    from backend.jobs.worker import preload

    preload()
    ready.set()
    go.wait()
    job = os.fork()
    if job == 0:
        _propose(folder)
        os._exit(0)
    os.waitpid(job, 0)


def _propose(folder: str) -> None:
    from skimage import data

    from backend.inference.candidates import propose
    from backend.inference.model import LoadedModel
    from backend.inference.scheduler import finish
    from backend.metrics.service import Metrics
    from backend.settings import Settings
    from usam.heads.bundled import resolve_heads

    settings = Settings(data_dir=Path(folder), model=MODEL, points_per_side=GRID)
    model = LoadedModel.load(MODEL, settings, Metrics(), resolve_heads(MODEL, "auto"))
    picture = np.tile(data.coffee(), (3, 3, 1))
    for number in range(CLICKS):
        embedding = model.encode(np.ascontiguousarray(picture[number : number + WEB[0], : WEB[1]]))
        finish(propose(model, embedding, (), None, "predicted-iou", settings))


def memory(pid: int) -> float:
    """Bytes of a process and its children; those that end meanwhile count as none."""
    total = 0.0
    for one in (pid, *_children(pid)):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += sum(1024 * float(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(word) for thread in threads for word in (thread / "children").read_text(encoding="ascii").split()]
    except OSError:
        return []
    return found + [below for child in found for below in _children(child)]


def peak(pid: int, work: Callable[[], object]) -> float:
    """The most bytes that a process and its children have while `work` goes on."""
    readings, done = [memory(pid)], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            readings.append(memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(readings)
