"""How time and memory grow with the number of tasks: 1,000, 10,000 and 100,000 in a real Label Studio.

Tasks are put into Label Studio's own database, and what the model says of one photograph is kept as what it says of
each, so that what is measured is all but the model: reading the tasks, reading what changed, ranking from kept
proposals, writing the ranking, and the pages. Each job runs in a process of its own, whose largest memory counts, less
what it held before. `BENCH_TASKS=1000,10000` takes other sizes. A step that takes longer than `BENCH_SECONDS` (900)
ends its size; what was measured is kept in the file that `BENCH_KEPT` names, and whole sizes in it are not measured
again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as StepTimeout
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from backend.inference.intake import SourceImage
from backend.jobs.entry import run_job
from backend.jobs.worker import preload
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.pool.proposals import draw_shown, propose_objects, score_many
from backend.pool.proposing import ProposalPlan
from backend.resources import Resources
from backend.settings import Settings
from backend.store.records import ProposalRow
from backend.web.dashboard.queue import ReasonKinds, queue_page
from bench.rows import Row
from bench.served import CONFIG, beside_label_studio, photographs

SIZES = (1_000, 10_000, 100_000)
GIVEN = {"model": "nano-m", "points_per_side": 8, "max_regions": 3}
AT_ONCE = 500
TARGET = "<= 1.2"
STEP_S = float(os.environ.get("BENCH_SECONDS", "900"))


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of memory beyond what the process held before."""

    seconds: float
    memory: float
    ended: bool = True


def run() -> list[Row]:
    """Cost of each step by size, and by how much a task of the largest pool costs more than one of the smallest."""
    sizes = [int(size) for size in os.environ.get("BENCH_TASKS", "").split(",") if size] or list(SIZES)
    kept = Path(os.environ.get("BENCH_KEPT", os.devnull))
    found = known(kept, sizes)
    if set(sizes) - set(found):
        with beside_label_studio(**GIVEN) as opened:
            for size in sorted(set(sizes) - set(found)):
                found[size] = grown(opened, size)
                if kept != Path(os.devnull):
                    told = {
                        str(one): {step: asdict(cost) for step, cost in costs.items()} for one, costs in found.items()
                    }
                    kept.write_text(json.dumps(told, indent=1))
    return rows_of(found)


def known(kept: Path, sizes: list[int]) -> dict[int, dict[str, Cost]]:
    """What an earlier run measured of these sizes."""
    if not kept.is_file():
        return {}
    told = {int(size): costs for size, costs in json.loads(kept.read_text()).items()}
    return {size: {step: Cost(**cost) for step, cost in told[size].items()} for size in sizes if size in told}


def rows_of(found: dict[int, dict[str, Cost]]) -> list[Row]:
    """Costs as figures, and a task of the largest size beside one of the smallest where both have the step."""
    rows = []
    for size, costs in sorted(found.items()):
        for step, cost in costs.items():
            memory = f"{cost.memory / 2**20:.0f} MiB beyond what the process held" if cost.memory else ""
            note = memory if cost.ended else f"not ended within {cost.seconds:.0f} s"
            rows.append(Row(f"{step}, {size:,} tasks", cost.seconds, "s", note=note))
    least, most = min(found), max(found)
    for step in found[least] if least != most else ():
        small, big = found[least][step], found[most].get(step)
        if big is None or not (small.ended and big.ended):
            continue
        name = f"{step}, a task of {most:,} / of {least:,}"
        target = TARGET if step in ("read all tasks", "rank from kept proposals") else ""
        rows.append(Row(f"{name}, time", big.seconds * least / most / small.seconds, "ratio", "", target))
        if target:
            rows.append(Row(f"{name}, memory", big.memory * least / most / max(small.memory, 1.0), "ratio", "", target))
    return rows


def grown(opened: Resources, size: int) -> dict[str, Cost]:
    """What each step costs on a new project of `size` tasks; without the steps after one that took too long."""
    project = opened.label_studio.create_project(f"growth {size}", CONFIG, sampling=UNCERTAINTY_SAMPLING)
    insert_tasks(opened, project.id, size)
    opened.store.join(project.id, project.stamp)
    costs: dict[str, Cost] = {}

    def measure(name: str, step: Callable[[Settings, str, int], None], job: str) -> bool:
        costs[name] = in_a_process(opened, step, job, project.id)
        return costs[name].ended

    if not measure("read all tasks", _job, "sync"):
        return costs
    keep_for_all(opened, project.id)
    if not measure("rank from kept proposals", _job, "score_pool"):
        return costs
    (done,) = opened.store.runs(project.id, "score_pool", limit=1)
    if done.state != "done" or done.details["proposed"] or len(opened.store.ranking(project.id)) != size:
        raise AssertionError(f"{done.state}: {done.reason}, {done.details}")
    seconds = done.details["seconds"]
    print(f"  of these {seconds}", flush=True)
    costs |= {f"of these, {part}": Cost(seconds[part], 0.0) for part in ("propose", "rank", "write", "switch")}
    opened.label_studio.annotate(opened.store.ranking(project.id, 1)[0].task, [])
    _ = (
        measure("read one change", _job, "sync")
        and measure("page of the queue", _page, "queue")
        and measure("first page", _page, "overview")
    )
    return costs


def insert_tasks(opened: Resources, project: int, size: int) -> None:
    """Tasks in Label Studio's own database, like one that came by its API, each a second older than the one before. (A
    pool that was imported in one go is read again until five minutes have passed.)"""
    opened.label_studio.import_tasks(project, [{"data": {"image": "http://127.0.0.1:9/0.jpg"}}])
    database = opened.settings.data_dir.parent / "label-studio" / "data" / "label_studio.sqlite3"
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.row_factory = sqlite3.Row
        like = dict(connection.execute("SELECT * FROM task WHERE project_id = ?", (project,)).fetchone())
        del like["id"]
        names = ", ".join(f'"{name}"' for name in like)
        marks = ", ".join(f":{name}" for name in like)
        newest = datetime.fromisoformat(like["updated_at"])
        rows = (
            like
            | {
                "data": f'{{"image": "http://127.0.0.1:9/{n}.jpg"}}',
                "inner_id": n,
                "updated_at": str(newest - timedelta(seconds=n)),
            }
            for n in range(2, size + 1)
        )
        connection.executemany(f"INSERT INTO task ({names}) VALUES ({marks})", rows)  # noqa: S608


def keep_for_all(opened: Resources, project: int) -> None:
    """Keep for every task what the model says of one photograph."""
    plan = ProposalPlan.of(opened, opened.label_studio.project(project))
    (path,) = photographs(opened.settings.data_dir / "pictures", 1)
    source = SourceImage.of(path.read_bytes(), opened.settings.model, opened.embeddings, opened.images.decode)
    found = propose_objects(opened.model, plan.heads, source, opened.settings)
    kept = found.kept
    (scored,) = score_many(plan.heads, plan.learnt, opened.settings, [kept])
    drawings = draw_shown(scored, plan.controls, opened.settings)
    row = kept.pack(0, "", drawings)
    tasks, now = opened.store.tasks(project), time.time()
    for start in range(0, len(tasks), AT_ONCE):
        part = [
            ProposalRow(task.id, plan.key(task.data_key), row.arrays, row.drawings).columns(
                project=project, made_at=now
            )
            for task in tasks[start : start + AT_ONCE]
        ]
        with opened.store._write() as connection:
            connection.execute(sql.insert(ProposalRow), part)


def in_a_process(opened: Resources, step: Callable[[Settings, str, int], None], name: str, project: int) -> Cost:
    """What a step costs, in a process that has loaded everything before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        waiting = pool.submit(_measured, step, opened.settings.data_dir, name, project)
        try:
            cost = waiting.result(timeout=STEP_S)
        except StepTimeout:
            cost = Cost(STEP_S, 0.0, ended=False)
            for process in list(pool._processes.values()):
                process.kill()
    print(f"  project {project}, {name}: {cost.seconds:.2f} s, {cost.memory / 2**20:.0f} MiB", flush=True)
    return cost


def _measured(step: Callable[[Settings, str, int], None], folder: Path, name: str, project: int) -> Cost:
    preload()
    settings = Settings.from_environment(data_dir=folder, **GIVEN)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = _memory("VmRSS"), time.perf_counter()
    step(settings, name, project)
    return Cost(time.perf_counter() - started, _memory("VmHWM") - before)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _job(settings: Settings, name: str, project: int) -> None:
    with Resources.open(settings) as resources:
        if name == "score_pool":  # without what comes after it, which nobody waits for
            from backend.jobs.score_pool import run as score_pool

            score_pool(resources, project)
        else:
            run_job(resources, name, project)


def _page(settings: Settings, name: str, project: int) -> None:
    with Resources.open(settings) as resources:
        store: Any = resources.store
        if name == "queue":
            queue_page(settings, store, ReasonKinds(store).of(project), project, {})
        else:
            store.overviews()
