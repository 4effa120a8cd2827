"""Doubt in a real project: the larger model's masks and second readings reach Label Studio, and labels judge them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import Workplace, workplace

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    budgets = {"larger_model": "auto", "larger_budget": "0.6", "alternatives_budget": "0.5"}
    with workplace(tmp_path, label_studio_server, redis_server, audit_share="0", heads="auto", **budgets) as place:
        yield place


def test_acting_shows_in_label_studio_and_is_judged_by_labels(place: Workplace, pictures: list[Path]) -> None:
    project, client, store = place.new_project(pictures), place.label_studio, place.store
    run = place.do("score_pool")
    acting = run.details["acting"]
    assert acting["larger"]["total"]["kept"] > 0
    assert acting["larger"]["share_of_cost"] <= 0.6
    offered = run.details["alternatives"]
    assert 0 < offered <= len(pictures) * 0.5
    assert run.details["verified"], run.reason

    stored = client.predictions(project, [row.task for row in store.ranking(project)])
    by_task = {row.task: [one for one in stored if one.task == row.task] for row in store.ranking(project)}
    confidences = {row.task: row.confidence for row in store.ranking(project)}
    notes = {
        task: [[" ".join(region["meta"]["text"]) for region in one.result] for one in sorted(found, key=lambda p: p.id)]
        for task, found in by_task.items()
    }
    assert any("mask by nano-m" in said for found in notes.values() for said in found[0])
    second = [task for task, found in by_task.items() if len(found) == 2]
    assert len(second) == offered
    for task in second:
        assert [one.score for one in by_task[task]] == pytest.approx([confidences[task]] * 2)
        assert not any("another reading" in said for said in notes[task][0])
        assert any("another reading" in said for said in notes[task][1])
        assert {one.model_version for one in by_task[task]} == {run.details["version"]}

    served = client._object("GET", f"/api/projects/{project}/next")
    assert served["id"] == store.ranking(project)[0].task
    first = min(by_task[served["id"]], key=lambda one: one.id)
    assert served["predictions"][0]["id"] == first.id, "an annotation starts from the first reading"

    acted = [task for task, found in notes.items() if any("mask by nano-m" in said for said in found[0])]
    for task in acted:
        shown = min(by_task[task], key=lambda one: one.id).result
        client.annotate(task, shown)
    place.do("sync")
    client.upload(project, pictures[:1])
    place.do("sync")
    again = place.do("score_pool")
    gain = again.details["acting"]["larger"]["true_gain"]
    assert gain["objects"] >= len(acted)
    assert gain["value"] > 0, "who takes the new masks as they are says that they were better"
    assert again.details["acting"]["larger"]["suspended"] is False
