"""Which labels are read anew: people's, the newest first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.learning.project_labels import ProjectLabels
from tests.factories import brush, resources


def test_peoples_labels_the_newest_first(tmp_path: Path) -> None:
    opened = resources(tmp_path)
    studio: Any = opened.label_studio
    studio.add_task(1, [brush()], updated_at="2026-01-03T00:00:00.000000Z")
    studio.add_task(2, [brush("old")], updated_at="2026-01-01T00:00:00.000000Z")
    studio.add_task(3, [brush()], updated_at="2026-01-02T00:00:00.000000Z")
    studio.add_task(4, [brush()])
    studio.add_task(5, [])
    newer = replace(studio.annotation_list[1], id=299, updated_at="2026-01-04T00:00:00.000000Z", result=[brush("new")])
    studio.annotation_list.append(newer)
    studio.annotation_list[3] = replace(studio.annotation_list[3], cancelled=True)
    opened.store.record_tasks(1, studio.task_list)
    labels = ProjectLabels.of(opened, 1, [1, 2, 3, 4, 5, 6])
    assert labels.order == [2, 1, 3], "skipped, empty and unknown tasks teach nothing"
    assert [one.result[0]["id"] for one in labels.annotations[2]] == ["old", "new"]
    assert labels.label_config == studio.known.label_config
    opened.store.close()
