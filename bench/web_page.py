"""The web page with 20 projects of 10,000 tasks each: how long each of its pages takes to answer, engine at rest and at
work, and how long a small picture takes to make and to show again.

The service runs in a process of its own. Each page is asked for on a kept connection, as a browser that is open does;
between two requests there is a second, so that nothing kept for a second answers for it.
"""

from __future__ import annotations

import base64
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from backend.inference.model import ObjectLooks
from backend.label_studio.records import Annotation, Task
from backend.pool.kept_objects import KeptObjects, covered_cells, prompt_arrays
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import ProposalRow, SampleRow, ScoreRow
from bench.rows import Row
from bench.served import served
from bench.webhooks import _keep_busy
from usam.checkpoints.registry import heads_for
from usam.heads.head_set import HeadSet
from usam.masks.packed_logits import PackedLogits
from usam.predictor.clean_proposals import Layout
from usam.prompts import Prompt

PROJECTS, TASKS, LABELLED, PROPOSED = 20, 10_000, 300, 200
ROUNDS = 30
TARGET_S = 0.3
PAGES = {
    "overview": "/",
    "queue": "/projects/1/queue",
    "queue, by reason, page 100": "/projects/1/queue?reason=task+gap+and+model+gap&page=100",
    "queue, by label, page 100": "/projects/1/queue?label=cat&page=100",
    "look closer": "/projects/1/tasks/1",
    "learning": "/projects/1/learning",
    "versions": "/projects/1/versions",
    "trust": "/projects/1/trust",
}
SIZE, WIDTH = (480, 640), 256


def run() -> list[Row]:
    """95th percentile of each page, engine at rest and at work; of small pictures the first and the second time."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fill(folder)
        with served(folder, with_store=True, model="nano-m", wait_seconds=600) as url:
            for busy in (False, True):
                with _engine_at_work(url, busy):
                    for page, path in PAGES.items():
                        rows.append(_row(page, _measure(url, path), busy))
            made, again = _pictures(url)
    rows += [_picture_row("made", made), _picture_row("shown again", again)]
    return rows


def _row(page: str, seconds: list[float], busy: bool) -> Row:
    figure = f"web page, {page}, 95th percentile, {'while the engine works' if busy else 'engine at rest'}"
    about, median = f"{PROJECTS} projects of {TASKS:,} tasks", f", median {np.median(seconds):.3f} s"
    return _percentile_row(figure, seconds, about, median, target=f"<= {TARGET_S}")


def _picture_row(what: str, seconds: list[float]) -> Row:
    figure = f"web page, small picture with 5 masks {what}, 95th percentile"
    return _percentile_row(figure, seconds, f"{SIZE[1]} x {SIZE[0]} pixels")


def _percentile_row(figure: str, seconds: list[float], about: str, more: str = "", target: str = "") -> Row:
    low, high = np.quantile(_resampled(seconds), [0.025, 0.975])
    return Row(
        figure=figure,
        value=float(np.percentile(seconds, 95)),
        unit="s",
        against="-",
        target=target,
        note=f"{about}; {len(seconds)} requests, 95 % interval {low:.3f} to {high:.3f} s{more}",
    )


def _resampled(seconds: list[float]) -> list[float]:
    rng = np.random.default_rng(0)
    return [float(np.percentile(rng.choice(seconds, len(seconds)), 95)) for _ in range(1000)]


def _measure(url: str, path: str) -> list[float]:
    seconds = []
    with httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60, trust_env=False) as client:
        for _ in range(ROUNDS):
            time.sleep(1.05)
            started = time.perf_counter()
            client.get(path).raise_for_status()
            seconds.append(time.perf_counter() - started)
    return seconds


def _pictures(url: str) -> tuple[list[float], list[float]]:
    made: list[float] = []
    again: list[float] = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for seconds in (made, again):
            for task in range(1, PROPOSED // 4 + 1):
                started = time.perf_counter()
                answer = client.get(f"/projects/1/tasks/{task}/thumbnail")
                seconds.append(time.perf_counter() - started)
                if answer.headers["content-type"] != "image/jpeg":
                    raise AssertionError(answer.text)
    return made, again


@contextmanager
def _engine_at_work(url: str, busy: bool) -> Iterator[None]:
    stop = threading.Event()
    worker = threading.Thread(target=_keep_busy, args=(url, stop), daemon=True)
    if busy:
        worker.start()
        time.sleep(2.0)
    try:
        yield
    finally:
        stop.set()
        if busy:
            worker.join(120)


def _fill(folder: Path) -> None:
    """The store that a year of work might leave, with proposals as large as real ones for the head of one queue."""
    store, registry = Store(Settings(data_dir=folder).store_url), Registry(Settings(data_dir=folder).registry_dir)
    rng = np.random.default_rng(0)
    for project in range(1, PROJECTS + 1):
        store.join(project, "2026")
        _add_tasks(store, project, rng)
        for job in ("sync", "score_pool", "retrain"):
            for _ in range(25):
                store.finish_run(store.start_run(project, job), "done", "as it should be", {"seconds": {"rank": 1.0}})
    heads = HeadSet.load(heads_for("nano-m"))
    registry.promote(1, registry.publish(1, heads, samples=LABELLED, labels=[f"{n}@t" for n in range(5000)]).version)
    kept = _round_objects()
    for task in range(1, PROPOSED + 1):
        store.put_proposal(1, ProposalRow(task, kept.key, kept.arrays, {}))
    store.close()


def _add_tasks(store: Store, project: int, rng: np.random.Generator) -> None:
    version = f"nano-m+0123456789ab.{project}"
    images = {task: f"/data/upload/{project}/{task}.jpg" for task in range(1, TASKS + 1)}
    if project == 1:
        images |= dict.fromkeys(range(1, PROPOSED + 1), _picture())
    labelled = {task for task in images if task > TASKS - LABELLED}
    store.record_tasks(
        project,
        [
            Task(task, {"image": value}, "t1", int(task in labelled), is_labeled=task in labelled)
            for task, value in images.items()
        ],
    )
    gaps = np.sort(rng.uniform(0, 0.5, TASKS - LABELLED))[::-1]
    reason = "task gap {:.2f} and model gap {:.2f} on its 3 most doubtful of {} objects"
    store.put_scores(
        project,
        [
            ScoreRow(
                place + 1,
                version,
                gap,
                (place + 1) / len(gaps),
                place,
                place % 10 == 3,
                reason.format(gap, gap / 2, place % 20 + 3),
                shown=tuple(range(5)),
                labels=["cat"] if place % 2 else ["dog"],
            )
            for place, gap in enumerate(gaps.tolist())
        ],
    )
    store.set_served(project, version)
    for task in labelled:
        tokens, iou = rng.normal(size=(5, WIDTH)).astype(np.float16), rng.uniform(size=3).tolist()
        sample = SampleRow(task, "r", "nano-m", "t1", task, "A", False, tokens[0], tokens[1:], {"iou_nano_m": iou})
        store.record_annotation(project, Annotation(task, task, "t1", []), [sample], sampled_for="k")


def _picture() -> str:
    """A photograph of `SIZE`, inside the task itself: what fetching would take is another's figure."""
    import skimage.data
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize(SIZE[::-1]).save(out, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _round_objects() -> ProposalRow:
    """Forty round objects as they are kept."""
    rows, columns = np.mgrid[:112, :112]
    centres = [(12 + 22 * (number % 5), 8 + 13 * (number // 5)) for number in range(40)]
    logits = np.stack([5.0 - ((rows - y) ** 2 + (columns - x) ** 2) / 10 for y, x in centres]).astype(np.float32)
    rng, count = np.random.default_rng(0), len(logits)
    looks = ObjectLooks(rng.normal(size=(count, 496)).astype(np.float16), np.zeros((count, 12), np.float32), "bench")
    return KeptObjects(
        hw=SIZE,
        image_features=rng.normal(size=128).astype(np.float32),
        given=False,
        labels=(None,) * count,
        prompt_arrays=prompt_arrays([Prompt(np.ones((1, 2), np.float32), np.ones(1, np.int32))] * count),
        iou_token=rng.normal(size=(count, 128)).astype(np.float16),
        mask_tokens=rng.normal(size=(count, 4, 128)).astype(np.float16),
        output=np.ones(count, np.int64),
        samscore=np.full(count, 0.8, np.float32),
        entropy=np.full(count, 0.1, np.float32),
        looks=looks,
        layout=Layout.of(logits > 0),
        cover=covered_cells(logits > 0),
        masks=PackedLogits.of(logits),
        acted=np.zeros(count, np.int64),
    ).pack(1, "0" * 64, {})
