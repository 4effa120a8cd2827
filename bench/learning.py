"""From 20 new labels to a new version that Label Studio serves by, in everything that `usam-backend up` starts.

The labels are written into Label Studio as a person's are; its webhooks, the backend, Redis and the worker do the rest.
They mark small squares that the model would not, so that there is something to learn and the gate lets it pass.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.label_studio.setup import connect
from backend.local.stack import Stack
from backend.queue import open_queue
from backend.settings import Settings
from backend.store import Store
from bench.rows import Row
from bench.served import CONFIG, ROOT, environment, label_studio_program, photographs

LABELS, POOL = 20, 40
REGIONS = 3
RETRY_DELAYS_S = 170.0
JOBS = ("sync", "retrain", "score_pool")


def run() -> list[Row]:
    """Seconds from the last of 20 labels to the project's new model version."""
    told = {
        "USAM_LABEL_STUDIO": str(label_studio_program()),
        "USAM_RETRAIN_AFTER": str(LABELS),
        "USAM_PRED_IOU_THRESH": "0.3",
    }
    with tempfile.TemporaryDirectory() as name, environment(told):
        settings = Settings.from_environment(data_dir=Path(name) / "var", port=0)
        pictures = photographs(Path(name) / "pictures", POOL)
        with (
            Stack(settings, files=Path(name), root=ROOT) as stack,
            environment(stack.environment),
            stack.client() as client,
        ):
            inner = Settings.from_environment()
            store = Store(inner.store_url)
            try:
                return _measure(client, store, inner, stack.backend_url, pictures)
            finally:
                store.close()


def _measure(client: LabelStudio, store: Store, settings: Settings, url: str, pictures: list[Path]) -> list[Row]:
    project = client.create_project("learning", CONFIG, sampling=UNCERTAINTY_SAMPLING).id
    client.upload(project, pictures)
    store.join(project, client.project(project).stamp)
    if failed := [step.detail for step in connect(client, settings, project, url) if step.failed]:
        raise AssertionError(failed)
    open_queue(settings).wake(project, "sync")  # as `usam-backend up` does
    _wait(lambda: len(store.ranking(project)) == POOL, "first ranking", store)
    before = client.project(project).model_version
    for row in store.ranking(project, LABELS):
        client.annotate(row.task, [_square(row.task, number) for number in range(REGIONS)])
    labelled, told = time.perf_counter(), time.time()
    _wait(lambda: _heads(client.project(project).model_version) != _heads(before), "new version", store)
    seconds = time.perf_counter() - labelled
    note = f"{settings.model}, {POOL} tasks, {REGIONS} objects a label, labels one after the other over the API"
    return [
        Row("20 new labels to a served new version", seconds, "s", "", "<= 90", note=f"{note}; {_told(store, told)}")
    ]


def _wait(found: Any, what: str, store: Store) -> None:
    deadline = time.monotonic() + RETRY_DELAYS_S
    while not found():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} after {RETRY_DELAYS_S:.0f} s: {store.runs(limit=6)}")
        time.sleep(0.2)


def _heads(version: str) -> str:
    """A version without the number of its ranking."""
    return version.rpartition(".")[0]


def _told(store: Store, since: float) -> str:
    """When each job began and how long it took, in seconds since the last label."""
    runs = [run for run in reversed(store.runs(limit=30)) if run.finished_at and run.finished_at > since]
    return ", ".join(
        f"{run.job} {run.started_at - since:+.1f}..{run.finished_at - since:+.1f}" for run in runs if run.finished_at
    )


def _square(task: int, number: int) -> dict[str, Any]:
    """A polygon of 6 percent of the picture's sides."""
    x, y = 5 + 13 * ((task + 3 * number) % 7), 5 + 11 * ((task + 5 * number) % 8)
    return {
        "id": f"drawn{number}",
        "from_name": "brush",
        "to_name": "img",
        "type": "polygonlabels",
        "value": {"points": [[x, y], [x + 6, y], [x + 6, y + 6], [x, y + 6]], "polygonlabels": ["thing"]},
    }
