"""A project of finished tasks, two objects each, of which one has the wrong label and one was not marked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.label_studio.records import Annotation, Task
from backend.settings import Settings
from backend.store import Store
from backend.store.records import ExampleRow
from tests.usam.objects.test_review import CLASSES, project
from usam.checkpoints.registry import weights_of
from usam.objects.outline_copies import COPIES
from usam.objects.outlines import HINT_NAMES, OUTLINE_NAMES

VERSION = f"object-features-1/{weights_of('nano-s')}/16x1"
WRONG, GONE = 10, 41
"""Objects; object k is on task 1 + k // 2."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, model="nano-s", heads="none")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The project's, as number 3."""
    store = Store(settings.store_url)
    store.join(3, "stamp")
    fill(store, 3)
    yield store
    store.close()


def measured(objects: list[int], moved: dict[int, tuple[float, float]]) -> dict[str, np.ndarray[Any, Any]]:
    """Figures of outlines as a sync keeps them: those of moved ones differ in half of the numbers."""
    rng = np.random.default_rng(objects)
    figures = rng.normal(0, 1, (len(objects), len(COPIES), len(OUTLINE_NAMES)))
    figures[:, np.array(COPIES) == "moved", ::2] += 2
    figures[:, np.array(COPIES) == "cut", 1::2] += 2
    figures[[k in moved for k in objects], 0, ::2] += 2
    hints = np.zeros((len(objects), len(HINT_NAMES)), np.float32)
    hints[:, :2] = [np.negative(moved.get(k, (0.0, 0.0))) for k in objects]
    return {"outlines": figures.astype(np.float32), "hints": hints}


def fill(store: Store, number: int, moved: dict[int, tuple[float, float]] | None = None) -> None:
    """Put it into the store as a sync would have; with figures of outlines where some are `moved` by so many pixels."""
    from safetensors.numpy import save

    examples = project({WRONG: "dog"}, gone=(GONE,))
    store.set_classes(number, list(CLASSES))
    images = np.array(examples.images)
    tasks = sorted(set(images.tolist()))
    store.record_tasks(
        number, [Task(1 + task, {"image": f"/data/<b>{task}.png"}, "t1", 1, is_labeled=True) for task in tasks]
    )
    for task in tasks:
        rows = np.flatnonzero(images == task)
        about = {
            "labels": [examples.labels[row][0] if examples.labels[row] else "" for row in rows],
            "regions": [f"r{examples.regions[row]}" for row in rows],
        }
        own = [int(examples.regions[row]) for row in rows if not examples.proposed[row]]
        packed = save(
            {
                **(measured(own, moved) if moved is not None else {}),
                "features": np.ascontiguousarray(examples.features[rows]),
                "shapes": np.ascontiguousarray(examples.shapes[rows]),
                "overlap": examples.overlap[rows].astype(np.float32),
                "proposed": examples.proposed[rows].astype(np.uint8),
                "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            }
        )
        annotation = Annotation(100 + task, 1 + task, "t1", [])
        row = ExampleRow(annotation.id, annotation.task, "t1", VERSION, packed)
        store.record_annotation(number, annotation, [], sampled_for="k", examples=row)
