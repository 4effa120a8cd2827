"""Writing 10,000 confidences into a real Label Studio, and from 20 new labels to a served new version.

Label Studio is started for this: the program that USAM_LABEL_STUDIO names, else `.venv-label-studio`. Both figures
end where Label Studio serves by the new version; deleting the old one, which comes afterwards and holds nobody up, is
reported beside.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backend.jobs.context import Context
from backend.jobs.entry import run_job
from backend.jobs.publication import delete_others, verify, write
from backend.label_studio import LabelStudio
from backend.label_studio_records import UNCERTAINTY_SAMPLING
from backend.label_studio_server import LabelStudioServer, find_label_studio, install_label_studio
from backend.settings import Settings
from backend.store.records import ScoreRow
from bench.rows import Row

TASKS = 10_000
LABELS = 20
POOL = 40
ROOT = Path(__file__).resolve().parent.parent
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="thing"/></BrushLabels></View>"""


def run() -> list[Row]:
    """Both figures."""
    with tempfile.TemporaryDirectory() as name:
        program = find_label_studio(ROOT) or install_label_studio(ROOT, say=print)
        with LabelStudioServer(program, Path(name) / "label-studio") as server:
            with LabelStudio(server.url, server.account.token) as client:
                rows = confidences(client)
            with context(server, Path(name) / "data") as opened:
                return rows + learning(opened)


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
    delete_others(client, project, done.version)
    deletion = time.perf_counter() - started
    note = "real Label Studio 1.23.2 on SQLite; until the project's version is switched and the first task verified"
    return [
        Row("write 10,000 confidences into Label Studio, first time", taken[0], "s", target="<= 15", note=note),
        Row("write 10,000 confidences into Label Studio, again", taken[1], "s", target="<= 15", note=note),
        Row("delete the 10,000 before them, afterwards", deletion, "s", note="Label Studio's own work"),
    ]


def learning(opened: Context) -> list[Row]:
    """Seconds from 20 labels in Label Studio to its serving by heads trained on them."""
    project = prepare(opened)
    client, store = opened.label_studio, opened.store
    for row in store.ranking(project, LABELS):
        (prediction,) = client.predictions(project, [row.task])
        client.annotate(row.task, prediction.result[:3])
    parts: dict[str, float] = {}
    for job in ("sync", "retrain", "score_pool"):
        started = time.perf_counter()
        run_job(opened, job, project)
        parts[job] = time.perf_counter() - started
    outcome = store.runs(project, "retrain", limit=1)[0]
    if outcome.state != "done":  # the champion stayed: what a new version costs is measured all the same
        opened.store.set_served(project, "")
        started = time.perf_counter()
        run_job(opened, "score_pool", project)
        parts["score_pool"] = time.perf_counter() - started
    said = ", ".join(f"{job} {seconds:.1f} s" for job, seconds in parts.items())
    note = f"{opened.settings.model}, {POOL} tasks, 3 objects a label, gate: {outcome.state}; {said}"
    return [Row("20 new labels to a served new version", sum(parts.values()), "s", target="<= 60", note=note)]


def prepare(opened: Context) -> int:
    """A project of real photographs, ranked once, as it is when a person starts."""
    import skimage.data
    from PIL import Image

    folder = opened.settings.data_dir / "pictures"
    folder.mkdir(parents=True)
    sources = [
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        for name in ("astronaut", "coffee", "chelsea", "rocket", "camera")
    ]
    rng = np.random.default_rng(0)
    paths = []
    for number in range(POOL):
        source = sources[number % len(sources)]
        x, y = (int(rng.integers(0, side // 3)) for side in source.size)
        path = folder / f"{number}.png"
        source.crop((x, y, x + source.width * 2 // 3, y + source.height * 2 // 3)).save(path)
        paths.append(path)
    project = opened.label_studio.create_project("learning", CONFIG, sampling=UNCERTAINTY_SAMPLING)
    opened.label_studio.upload(project.id, paths)
    opened.store.join(project.id, project.stamp)
    run_job(opened, "sync", project.id)
    run_job(opened, "score_pool", project.id)
    return project.id


@contextmanager
def context(server: LabelStudioServer, folder: Path) -> Iterator[Context]:
    """What jobs need, beside this Label Studio. Jobs run in this process: no queue is needed."""
    told = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.account.token}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        settings = Settings.from_environment(data_dir=folder, grid_side=8, keep_iou=0.3)
        with Context.open(settings) as opened:
            yield opened
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
