"""The whole way of what a project is about: labels teach it, a version carries it, and people see it in the next masks.

The pictures hold a red ball and a yellow box, which the project marks, and a blue bar, which it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.inference.model import LoadedModel
from backend.jobs.retrain import run as retrain
from backend.jobs.score_pool import run as score_pool
from backend.jobs.sync import run as sync
from backend.label_studio.records import Annotation, Project, Task
from backend.label_studio.shapes import region_to_mask
from backend.learning.work import summarize_work
from backend.metrics.service import Metrics
from backend.pool.policy import learnt_in_use
from backend.resources import Resources
from backend.settings import Settings
from tests.factories import brush, label_config, png, resources
from usam.masks import encode_rle, iou

HW = (120, 160)
KINDS = ("ball", "box", "bar")
LABELLED, OPEN = range(1, 15), range(15, 21)


def scene(number: int) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """A picture and the masks of its three things."""
    rng = np.random.default_rng(number)
    image = rng.integers(60, 90, (*HW, 3), dtype=np.uint8)
    masks = {}
    for column, kind in enumerate(rng.permutation(KINDS)):
        mask, x, y = np.zeros(HW, np.uint8), 28 + 52 * column, int(rng.integers(35, 85))
        size = int(rng.integers(13, 18))
        if kind == "ball":
            cv2.circle(mask, (x, y), size, 1, -1)
        elif kind == "box":
            cv2.rectangle(mask, (x - size, y - size), (x + size, y + size), 1, -1)
        else:
            cv2.rectangle(mask, (x - 5, y - 2 * size), (x + 5, y + 2 * size), 1, -1)
        colours = {"ball": (220, 40, 40), "box": (230, 210, 40), "bar": (40, 60, 230)}
        image[mask > 0] = colours[str(kind)]
        masks[str(kind)] = mask > 0
    return image, masks


class Scenes:
    """Gives the picture of a task."""

    def fetch_bytes(self, address: str, task: int) -> bytes:
        return png(scene(task)[0])

    def decode(self, data: bytes) -> np.ndarray[Any, Any]:
        return np.array(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def region(number: int, kind: str) -> dict[str, Any]:
    made = brush(f"{number}-{kind}", HW)
    made["value"] = {"format": "rle", "rle": encode_rle(scene(number)[1][kind]), "brushlabels": [kind]}
    return made


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    made = Settings.from_environment(model="nano-m", threads=1, points_per_side=5)
    from usam.heads.bundled import resolve_heads

    return LoadedModel.load("nano-m", made, Metrics(), resolve_heads("nano-m", "auto"))


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel) -> Iterator[Resources]:
    opened = resources(tmp_path, model, heads=model.own_heads)
    opened.settings = opened.settings.model_copy(update={"model": "nano-m", "max_regions": 8, "points_per_side": 5})
    studio: Any = opened.label_studio
    images: Any = Scenes()
    opened.images = images
    studio.known = Project.read({"id": 1, "label_config": label_config("box", "ball")})
    for number in (*LABELLED, *OPEN):
        studio.task_list.append(Task(number, {"image": f"{number}"}, "2026-01-01T00:00:00.000000Z"))
    yield opened
    opened.store.close()


def annotate(place: Resources) -> None:
    studio: Any = place.label_studio
    changed = "2026-01-02T00:00:00.000000Z"
    studio.task_list = [task for task in studio.task_list if task.id in OPEN]
    for number in LABELLED:
        studio.task_list.append(Task(number, {"image": f"{number}"}, changed, annotations=1, is_labeled=True))
        result = [region(number, kind) for kind in ("ball", "box")]
        studio.annotation_list.append(Annotation(100 + number, number, changed, result))


def shown(place: Resources) -> list[tuple[str, str]]:
    """What the predictions of unlabelled tasks show, and the label that it has: 'bar', or '' for none of the three."""
    found = []
    version = place.store.served(1)
    for one in place.label_studio.predictions(1, list(OPEN)):
        if one.model_version != version:
            continue
        masks = scene(one.task)[1]
        for made in one.result:
            mask = region_to_mask(made, HW)
            kind = next((kind for kind, truth in masks.items() if iou(mask, truth) >= 0.5), "")
            found.append((kind, (made["value"]["brushlabels"] or [""])[0]))
    return found


def test_labels_teach_what_is_wanted_and_what_it_is_called(place: Resources) -> None:
    sync(place, 1)
    score_pool(place, 1)
    before = shown(place)
    assert "bar" in [kind for kind, _ in before], "nothing is known yet of what is wanted"
    assert {label for _, label in before} == {""}, "and no label is guessed"
    annotate(place)
    sync(place, 1)
    assert len(place.store.examples(1)) == len(LABELLED)
    (work,) = summarize_work(place.store.work(1))
    assert work.tasks == len(LABELLED)
    assert work.work.deleted > 0, "a bar that was shown for nothing"
    assert work.work.shown + work.work.added >= 2 * len(LABELLED)
    assert retrain(place, 1) == "done"
    current = place.registry.current(1)
    assert current is not None
    assert current.classes == ("box", "ball")
    assert current.learnt_figures["class_accuracy"] > 0.9
    learnt = learnt_in_use(place, 1)
    assert learnt is not None
    assert learnt.selector is not None
    score_pool(place, 1)
    assert place.store.served(1).startswith(f"nano-m+{current.version}.")
    after = shown(place)
    wanted = [(kind, label) for kind, label in after if kind in ("ball", "box")]
    assert len(wanted) >= 0.8 * len([kind for kind, _ in before if kind in ("ball", "box")])
    assert len(wanted) / len(after) > 0.8, after
    assert sum(kind == label for kind, label in wanted) / len(wanted) > 0.9
    assert retrain(place, 1) == "skipped"
    place.registry.rollback(1)
    assert learnt_in_use(place, 1) is None, "one pointer takes all of it back"


def test_work_is_counted_by_what_was_shown_and_not_by_heads_that_learnt_since(place: Resources) -> None:
    sync(place, 1)
    score_pool(place, 1)
    annotate(place)
    sync(place, 1)
    counted = {row.task for row in place.store.work(1)}
    assert retrain(place, 1) == "done"
    studio: Any = place.label_studio
    number, changed = OPEN[0], "2026-01-03T00:00:00.000000Z"
    studio.task_list = [task for task in studio.task_list if task.id != number]
    studio.task_list.append(Task(number, {"image": f"{number}"}, changed, annotations=1, is_labeled=True))
    studio.annotation_list.append(Annotation(999, number, changed, [region(number, "ball"), region(number, "box")]))
    sync(place, 1)
    (row,) = [row for row in place.store.work(1) if row.task not in counted]
    served = place.store.served(1)
    (before,) = [one for one in studio.predictions(1, [number]) if one.model_version == served]
    assert row.version == served
    assert row.kept + row.deleted + row.relabelled + row.corrected == len(before.result)
    assert row.deleted > 0, "the bar that was shown"


def test_labels_renamed_in_the_configuration_are_learnt_again(place: Resources) -> None:
    sync(place, 1)
    annotate(place)
    sync(place, 1)
    retrain(place, 1)
    studio: Any = place.label_studio
    queue: Any = place.queue
    studio.known = Project.read({"id": 1, "label_config": label_config("box", "ball", "bar")})
    queue.waked.clear()
    sync(place, 1)
    assert "retrain" in queue.waked
    retrain(place, 1)
    current = place.registry.current(1)
    assert current is not None
    assert current.classes == ("box", "ball", "bar")
