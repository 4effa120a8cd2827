"""What a retraining takes besides fitting and judging heads: the job itself, in a process of its own.

Before, reading the checkpoint's heads built the whole model; the second figure is that model's time, which every
retraining paid then and none pays now. Labels are drawn at random: only the time around the fitting is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.rows import Row

MODELS = ("nano-m", "sam2.1_hiera_large")
RUNS = 5
TASKS, WIDTH = 40, {"nano-m": 128, "sam2.1_hiera_large": 256}


def run() -> list[Row]:
    """Seconds outside fitting with and without building the model, and their ratio; medians of `RUNS` processes."""
    rows = []
    for model in MODELS:
        found = [_in_a_process(model) for _ in range(RUNS)]
        outside, build = (float(np.median([run[name] for run in found])) for name in ("outside", "build"))
        note = f"{RUNS} processes, {TASKS} labelled objects; {outside:.3f} s; building the model {build:.3f} s"
        what = f"a retraining outside fitting, {model}"
        against = "the same with the model built to read its heads, as before"
        rows += [
            Row(what, outside, "s", note=note),
            Row(f"{what}, now / before", outside / (outside + build), "ratio of seconds", against, "< 1", note=note),
        ]
    return rows


def _in_a_process(model: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.retraining", model, folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(model: str, folder: Path) -> dict[str, float]:
    """Seconds of one retraining outside fitting and gate, and of building the model after it."""
    import time

    from backend.image_fetcher import ImageFetcher
    from backend.jobs import retrain
    from backend.jobs.worker import preload
    from backend.resources import Resources
    from backend.settings import Settings
    from backend.store import Store
    from backend.store.head_registry import Registry

    large = not model.startswith("nano")
    settings = Settings(model=model, data_dir=folder, heads="none" if large else "auto", random_weights=large)
    store = Store(settings.store_url)
    _label(store, model)
    registry, fetcher = Registry(settings.registry_dir), ImageFetcher(settings)
    resources = Resources(settings, store, registry, None, fetcher, _NoQueue())  # type: ignore[arg-type]
    preload()
    started = time.perf_counter()
    retrain.run(resources, 1)
    whole = time.perf_counter() - started
    (last,) = store.runs(1, "retrain", limit=1)
    seconds = last.details["seconds"]
    started = time.perf_counter()
    resources.model  # noqa: B018
    return {"outside": whole - seconds["fit"] - seconds["gate"], "build": time.perf_counter() - started}


class _NoQueue:
    """Takes no job: what follows a retraining is not measured."""

    def wake(self, *_: object, **__: object) -> bool:
        return True


def _label(store: object, model: str) -> None:
    """A project with random samples of the model's width, one a task."""
    from backend.label_studio.records import Annotation, Task
    from backend.learning.samples import object_targets
    from backend.store import Store
    from backend.store.records import SampleRow
    from usam.checkpoints.registry import weights_of

    if not isinstance(store, Store):
        raise TypeError(f"expected a store, got {store!r}")
    rng, width = np.random.default_rng(0), WIDTH[model]
    store.join(1)
    tasks = range(1, TASKS + 1)
    store.record_tasks(1, [Task.read({"id": n, "data": {"image": f"{n}"}, "updated_at": "1"}) for n in tasks])
    for number in tasks:
        iou, samscore = (rng.uniform(0.2, 0.9, (2, 4)).astype(np.float32) for _ in range(2))
        sample = SampleRow(
            annotation=number,
            region="r",
            checkpoint=weights_of(model),
            updated_at="1",
            task=number,
            label="thing",
            box_only=False,
            iou_token=rng.normal(size=width).astype(np.float16),
            mask_tokens=rng.normal(size=(4, width)).astype(np.float16),
            targets=object_targets(model, iou, samscore),
        )
        store.record_annotation(1, Annotation(number, number, "1", []), [sample], sampled_for="bench")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
