"""Writing 10,000 confidences into a real Label Studio.

The time ends where Label Studio serves by the new version; deleting the old one, which comes afterwards and holds
nobody up, is reported beside.
"""

from __future__ import annotations

import time

import numpy as np

from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.pool.publication import delete_before, verify, write
from backend.store.records import ScoreRow
from bench.rows import Row
from bench.served import CONFIG, beside_label_studio

TASKS = 10_000


def run() -> list[Row]:
    """Seconds for the first 10,000 and for those after them."""
    with beside_label_studio() as opened:
        return confidences(opened.label_studio)


def confidences(client: LabelStudio) -> list[Row]:
    """Seconds to write 10,000 confidences and switch to them, over an earlier version of as many."""
    project = client.create_project("confidences", CONFIG, sampling=UNCERTAINTY_SAMPLING).id
    client.import_tasks(project, [{"data": {"image": f"http://127.0.0.1:9/{n}.png"}} for n in range(TASKS)])
    tasks = [task.id for task in client.tasks(project)]
    taken: list[float] = []
    rng = np.random.default_rng(0)
    for number in (1, 2):
        order = rng.permutation(tasks)
        rows = [ScoreRow(int(t), "", 0.0, (place + 1) / TASKS, place, False) for place, t in enumerate(order)]
        started = time.perf_counter()
        done = write(
            client,
            project,
            rows,
            lambda row: {"task": row.task, "score": row.confidence, "result": []},
            f"nano-m+{number:012x}.{number}",
        )
        taken.append(time.perf_counter() - started)
        trouble = verify(client, project, done.version, rows[0].task)
        if trouble:
            raise RuntimeError(trouble)
    started = time.perf_counter()
    delete_before(client, project, done.version)
    deletion = time.perf_counter() - started
    note = "real Label Studio 1.23.2 on SQLite; until the project's version is switched and the first task verified"
    return [
        Row("write 10,000 confidences into Label Studio, first time", taken[0], "s", target="<= 15", note=note),
        Row("write 10,000 confidences into Label Studio, again", taken[1], "s", target="<= 15", note=note),
        Row("delete the 10,000 before them, afterwards", deletion, "s", note="Label Studio's own work"),
    ]
