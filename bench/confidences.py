"""Writing 10,000 confidences into a real Label Studio, and how long a person's *Submit* waits meanwhile.

Writing ends where Label Studio serves by the new version. The version before it is deleted afterwards, bit by bit as
the service does it, and once in one go. During each part annotations are sent one after the other, half a second apart;
the longest wait counts, beside that at rest. Before that, deletions are timed with and without SQLite writing ahead.
`BENCH_CONFIDENCES=1000` takes another size, `BENCH_SECONDS=600` watches the deletion for longer.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from backend.errors import LabelStudioUnreachable
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.pool.publication import Publication, delete_before, revise, verify, write
from backend.pool.revision import revision
from backend.store.records import ScoreRow
from bench.rows import Row
from bench.served import CONFIG, beside_label_studio

TASKS = int(os.environ.get("BENCH_CONFIDENCES", "10000"))
WATCHED_S = float(os.environ.get("BENCH_SECONDS", "240"))
ROUNDS = 3
NOTE = "real Label Studio 1.23.2 on SQLite"


def run() -> list[Row]:
    """Seconds for writing, deletion and the longest *Submit* during each."""
    with beside_label_studio() as opened:
        database = opened.settings.data_dir.parent / "label-studio" / "data" / "label_studio.sqlite3"
        return journals(opened.label_studio, database) + confidences(opened.label_studio)


def journals(client: LabelStudio, database: Path) -> list[Row]:
    """What it brings that SQLite writes ahead: deletions one by one, and a *Submit* beside them, in turns with and
    without."""
    project = client.create_project("journals", CONFIG, sampling=UNCERTAINTY_SAMPLING).id
    client.import_tasks(project, [{"data": {"image": f"http://127.0.0.1:9/{n}.png"}} for n in range(ROUNDS * 100)])
    tasks = [task.id for task in client.tasks(project)]
    version = publish(client, project, tasks, 1).version
    found = client.of_version(project, version, 1, count=len(tasks)) or []
    person = Person(client, tasks)
    took: dict[str, list[float]] = {"wal": [], "delete": []}
    waits: dict[str, list[float]] = {"wal": [], "delete": []}
    for turn in range(2 * ROUNDS):
        mode = ("wal", "delete")[turn % 2]
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        with person.at_work() as during:
            for prediction in found[turn * 50 : turn * 50 + 50]:
                started = time.perf_counter()
                client.delete_prediction(prediction)
                took[mode].append(time.perf_counter() - started)
        waits[mode] += during
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=delete")
    rows = []
    for what, seconds in (("delete one prediction", took), ("Submit beside deletions", waits)):
        ahead, before = np.array(seconds["wal"]), np.array(seconds["delete"])
        rng = np.random.default_rng(0)
        drawn = [
            np.median(rng.choice(ahead, len(ahead))) / np.median(rng.choice(before, len(before))) for _ in range(999)
        ]
        low, high = np.percentile(drawn, (2.5, 97.5))
        note = f"medians of {len(ahead)} and {len(before)} in turns, 95 % [{low:.2f}, {high:.2f}]; {NOTE}"
        ratio = float(np.median(ahead) / np.median(before))
        rows.append(Row(f"{what}, SQLite writing ahead / not", ratio, "ratio", "journal_mode=delete", "", note=note))
    return rows


def confidences(client: LabelStudio) -> list[Row]:
    """Write two versions and a third, deleting the first bit by bit and the second in one go."""
    project = client.create_project("confidences", CONFIG, sampling=UNCERTAINTY_SAMPLING).id
    submitted = client.create_project("submitted", CONFIG).id
    for where, count in ((project, TASKS), (submitted, 50)):
        client.import_tasks(where, [{"data": {"image": f"http://127.0.0.1:9/{n}.png"}} for n in range(count)])
    tasks = [task.id for task in client.tasks(project)]
    person = Person(client, [task.id for task in client.tasks(submitted)])
    with person.at_work() as at_rest:
        time.sleep(12)
    taken, waits = [], []
    for number in (1, 2):
        with person.at_work() as during:
            started = time.perf_counter()
            done = publish(client, project, tasks, number)
            taken.append(time.perf_counter() - started)
        waits += during
    revised, written, during_change = change(client, project, tasks, done.version, person)
    with person.at_work() as during_deletion:
        started = time.perf_counter()
        gone = delete_before(client, project, done.version, lambda: time.perf_counter() - started < WATCHED_S)
        deletion = time.perf_counter() - started
    left = sum(client.model_versions(project).values()) - TASKS
    with person.at_work() as during_whole:
        started = time.perf_counter()
        client.delete_version(project, done.version)
        whole = time.perf_counter() - started
    rest = f"at rest: {max(at_rest):.2f} s, median {np.median(at_rest):.2f} s of {len(at_rest)}"
    size, target = f"{TASKS:,}", "<= 5" if TASKS >= 10_000 else ""
    deleted = TASKS - left
    return [
        Row(f"write {size} confidences into Label Studio, first time", taken[0], "s", target=target, note=NOTE),
        Row(f"write {size} confidences into Label Studio, again", taken[1], "s", target=target, note=NOTE),
        _wait(f"writing {size} confidences", waits, rest, "<= 1"),
        Row(f"write a ranking of {size} in which 5 % moved", revised, "s", note=f"{NOTE}; {written:,} written"),
        _wait("writing a ranking in which 5 % moved", during_change, rest, "<= 1"),
        Row(
            f"delete the {size} before them, bit by bit",
            deletion * TASKS / max(deleted, 1),
            "s",
            target="<= 20",
            note=f"{NOTE}; {'all' if gone else f'from {deleted:,} in {deletion:.0f} s'}; nobody waits for it; "
            f"{deletion / max(deleted, 1) * 1e3:.0f} ms each, {whole / TASKS * 1e3:.1f} ms each in one go",
        ),
        _wait("deleting bit by bit", during_deletion, rest, "<= 1"),
        Row(f"delete {size} in one go, as it was", whole, "s", note=NOTE),
        _wait("deleting in one go, as it was", during_whole, rest, ""),
    ]


def change(
    client: LabelStudio, project: int, tasks: list[int], version: str, person: Person
) -> tuple[float, int, list[float]]:
    """Move 5 % of the tasks of the order that is served: seconds, how many were written, and how long each *Submit*
    took."""
    before = rows_of(tasks, 2)
    rng = np.random.default_rng(3)
    moved = set(rng.choice(len(before), max(len(before) // 20, 1), replace=False).tolist())
    order = [row for place, row in enumerate(before) if place not in moved]
    for place in sorted(moved):
        order.insert(int(rng.integers(0, len(order) + 1)), before[place])
    with person.at_work() as waits:
        started = time.perf_counter()
        found = revision({row.task: row for row in before}, order, version)
        if found is None:
            raise RuntimeError("5 % moved should not make all be written anew")
        revise(client, project, found, prediction_of, version)
        seconds = time.perf_counter() - started
    if trouble := verify(client, project, version, order[0].task):
        raise RuntimeError(trouble)
    return seconds, len(found.written), waits


def rows_of(tasks: list[int], number: int) -> list[ScoreRow]:
    """An order of all tasks, another for each number."""
    order = np.random.default_rng(number).permutation(tasks)
    return [ScoreRow(int(t), "", 0.0, (place + 1) / len(order), place, False) for place, t in enumerate(order)]


def prediction_of(row: ScoreRow) -> dict[str, object]:
    """A task's confidence, without masks."""
    return {"task": row.task, "score": row.confidence, "result": []}


def _wait(what: str, waits: list[float], rest: str, target: str) -> Row:
    note = f"{NOTE}; {len(waits)} sent half a second apart, median {np.median(waits):.2f} s"
    return Row(f"longest Submit while {what}", max(waits), "s", rest, target, note=note)


def publish(client: LabelStudio, project: int, tasks: list[int], number: int) -> Publication:
    """Write another order of all tasks, and check that it is served."""
    rows = rows_of(tasks, number)
    done = write(client, project, rows, prediction_of, f"nano-m+{number:012x}.{number}")
    trouble = verify(client, project, done.version, rows[0].task)
    if trouble:
        raise RuntimeError(trouble)
    return done


class Person:
    """Submits one of these tasks after the other."""

    def __init__(self, client: LabelStudio, tasks: list[int]) -> None:
        self._client, self._tasks, self._sent = client, tasks, 0

    @contextmanager
    def at_work(self) -> Iterator[list[float]]:
        """Submits until the block ends; the list fills with how long each took."""
        waits: list[float] = []
        stop = threading.Event()
        thread = threading.Thread(target=self._submit, args=(stop.wait, waits))
        thread.start()
        try:
            yield waits
        finally:
            stop.set()
            thread.join()

    def _submit(self, stopped: Callable[[float], bool], waits: list[float]) -> None:
        while not stopped(0.5):
            task = self._tasks[self._sent % len(self._tasks)]
            self._sent += 1
            started = time.perf_counter()
            with suppress(LabelStudioUnreachable):  # 30 s are waited at most, and count
                self._client.annotate(task, [])
            waits.append(time.perf_counter() - started)
