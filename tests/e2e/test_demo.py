"""The first ten minutes as a person spends them, without a browser: the demo starts, ten of its pictures are labelled,
usam learns from them, and the masks of the others are of what is wanted, under its label."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.cli.up import _prepare_project, eager
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Task
from backend.label_studio.shapes import labels_by_id, region_to_mask
from backend.local.demo import LABELS, RETRAIN_AFTER, TITLE
from backend.local.label_studio_server import LABEL_STUDIO_VERSION
from backend.local.scenes import FRUIT, HW, Scene, draw_scene, draw_scenes
from backend.local.stack import Stack
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import Run
from usam.masks import encode_rle, iou

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
PICTURES = 30


@pytest.fixture
def stack(
    tmp_path: Path, label_studio_program: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """What `usam-backend up` starts, on fewer pictures, with a prepared database of Label Studio where there is one."""
    for name in [*os.environ]:
        if name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL", "USAM_RETRAIN_AFTER"):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.setenv("USAM_LABEL_STUDIO", str(label_studio_program))
    template = pytestconfig.cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}")  # type: ignore[union-attr]
    data = tmp_path / "var"
    if (template / "complete").exists():
        shutil.copytree(template, data / "label-studio")
    draw_scenes(data / "pictures" / "scenes", PICTURES)
    settings = eager(Settings.from_environment(data_dir=data, port=0))
    with Stack(settings, files=data / "pictures", root=tmp_path, say=print) as started:
        yield started
    os.environ.clear()
    os.environ.update(before)


def scene_of(task: Task) -> Scene:
    number = re.search(r"scene-(\d+)", str(task.data["image"]))
    assert number
    return draw_scene(int(number[1]))


def true_regions(task: Task) -> list[dict[str, Any]]:
    """What a careful person hands in."""
    found: list[dict[str, Any]] = []
    for index, thing in enumerate(scene_of(task).fruit):
        mask = {"format": "rle", "rle": encode_rle(thing.mask)}
        shared = {"id": f"true-{index}", "to_name": "image", "original_width": HW[1], "original_height": HW[0]}
        found.append({**shared, "from_name": "mask", "type": "brush", "value": mask})
        found.append({**shared, "from_name": "label", "type": "labels", "value": {**mask, "labels": [thing.kind]}})
    return found


def shown(client: LabelStudio, project: int, tasks: list[Task]) -> list[tuple[str, str]]:
    """(what it is, its label) of each mask that these tasks show; the fruit's name, or '' for what is none."""
    found = []
    version = client.project(project).model_version
    scenes = {task.id: scene_of(task) for task in tasks}
    for prediction in client.predictions(project, list(scenes)):
        if prediction.model_version != version:
            continue
        labels = labels_by_id(prediction.result)
        for region in prediction.result:
            if region["type"] != "brush":
                continue
            mask = region_to_mask(region, HW)
            kind = next((t.kind for t in scenes[prediction.task].fruit if iou(mask, t.mask) >= 0.5), "")
            found.append((kind, ", ".join(labels.get(region["id"], ()))))
    return found


def share(masks: list[tuple[str, str]], right: Callable[[str, str], bool]) -> float:
    return sum(right(kind, label) for kind, label in masks) / max(1, len(masks))


def wait_for_run(store: Store, project: int, job: str, after: int, seconds: float) -> Run:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        runs = [run for run in store.runs(project, job) if run.id > after]
        ended = next((run for run in reversed(runs) if run.state in ("done", "rejected", "failed")), None)
        if ended is not None:
            return ended
        time.sleep(0.3)
    raise AssertionError(f"no {job} in {seconds} s: {store.runs(project)}")


def test_ten_labels_teach_what_is_wanted_and_it_shows_in_the_next_pictures(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    project = _prepare_project(stack, stack.settings.data_dir / "pictures" / "scenes", TITLE)
    store = Store(stack.settings.store_url)
    with stack.client() as client:
        made = client._object("GET", f"/api/projects/{project}")
        assert made["show_instruction"]
        assert "Alt+click" in made["expert_instruction"]
        tasks = {task.id: task for task in client.tasks(project)}
        assert len(tasks) == PICTURES
        first = [row.task for row in store.ranking(project)][:RETRAIN_AFTER]
        rest = [task for number, task in tasks.items() if number not in first]
        before = shown(client, project, rest)
        last = max(run.id for run in store.runs(project))
        for number in first:
            client.annotate(number, true_regions(tasks[number]))
        retrained = wait_for_run(store, project, "retrain", last, 120)
        assert retrained.state == "done", retrained.reason
        current = Registry(stack.settings.registry_dir).current(project)
        assert current is not None
        assert set(current.classes) == set(FRUIT) == set(LABELS)
        wait_for_run(store, project, "score_pool", retrained.id, 120)
        after = shown(client, project, rest)
    store.close()
    figures = {
        "fruit_before": share(before, lambda kind, label: bool(kind)),
        "right_label_before": share(before, lambda kind, label: bool(kind) and kind == label),
        "fruit_after": share(after, lambda kind, label: bool(kind)),
        "right_label_after": share(after, lambda kind, label: bool(kind) and kind == label),
    }
    print(figures, len(before), len(after))
    for name, value in figures.items():
        record_property(name, value)
    assert figures["right_label_before"] == 0, "no label is guessed before anybody said one"
    assert figures["right_label_after"] >= 0.8, figures
    assert len(after) >= 0.5 * sum(len(scene_of(task).fruit) for task in rest), "and most fruit is shown"
