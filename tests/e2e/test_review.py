"""Labels worth a second look, with a real Label Studio: the tab shows them, and nobody's answer is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.cli.review import TAB
from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import Workplace, small_region, workplace

pytestmark = pytest.mark.e2e
OBJECTS = 3
"""Marked on each picture."""


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(tmp_path, label_studio_server, redis_server, retrain_after="999", audit_share="0") as place:
        yield place


def reviewed(place: Workplace, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "backend.cli.main", "review", "--project", str(place.project), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **place.environment})
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def regions(task: int) -> list[dict[str, Any]]:
    made = [small_region(task + 5 * number) for number in range(OBJECTS)]
    return [{**region, "id": f"drawn{number}"} for number, region in enumerate(made)]


def test_the_tab_holds_the_doubtful_tasks_however_often_it_is_made(
    place: Workplace, pictures: list[Path], tmp_path: Path
) -> None:
    client, project = place.label_studio, place.new_project(pictures[:8])
    tasks = [task.id for task in client.tasks(project)]
    for task in tasks:
        client.annotate(task, regions(task))
    place.do("sync")
    before = client.annotations(project, tasks)
    page = tmp_path / "page.html"
    first = reviewed(place, "--top", "3", "--report", str(page))
    assert first["labels"] == OBJECTS * len(tasks)
    assert 0 < len(first["lines"]) <= 3
    assert first["lines"] == reviewed(place, "--top", "3")["lines"]
    assert "<table>" in page.read_text(encoding="utf-8")
    (tab,) = [view for view in client.views(project) if view.title == TAB]
    shown = client._object("GET", "/api/tasks", params={"view": tab.id, "page": 1, "page_size": 50})
    assert {task["id"] for task in shown["tasks"]} == {line["task"] for line in first["lines"]}
    assert len(shown["tasks"]) < len(tasks), "the tab leaves the others out"
    assert client.annotations(project, tasks) == before
    assert client.model_versions(project) == {}
    if marked := [line for line in first["lines"] if line["region"]]:
        assert all(line["region"].startswith("drawn") and line["label"] == "thing" for line in marked)


def test_a_label_that_is_right_stays_off_the_list_until_it_is_changed(place: Workplace, pictures: list[Path]) -> None:
    client, project = place.label_studio, place.new_project(pictures[:8])
    tasks = [task.id for task in client.tasks(project)]
    for task in tasks:
        client.annotate(task, regions(task))
    place.do("sync")
    doubted = reviewed(place, "--no-tab")["lines"][0]
    annotation = doubted["annotation"]
    reviewed(place, "--right", doubted["key"])

    def listed() -> set[str]:
        place.do("sync")
        return {line["key"] for line in reviewed(place, "--no-tab", "--top", "999")["lines"]}

    assert doubted["key"] not in listed()
    before = client.annotations(project, [doubted["task"]])[0]
    client._send("PATCH", f"/api/annotations/{annotation}/", json={"ground_truth": True})
    touched = client.annotations(project, [doubted["task"]])[0]
    assert touched.updated_at != before.updated_at
    assert doubted["key"] not in listed(), "touched, and left as it was"
    moved = [{**region, "value": small_region(doubted["task"] + 40)["value"]} for region in touched.result]
    client._send("PATCH", f"/api/annotations/{annotation}/", json={"result": moved})
    place.do("sync")
    assert place.store.right_labels(project) == []
