"""The job that follows boxes says what became of the tasks; in a project without videos it has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import usam
from backend.jobs import track
from backend.resources import Resources
from tests.backend.label_studio.test_video_regions import key, region
from tests.backend.pool.test_video_tracks import Copy, annotated, box, uri
from tests.factories import resources
from tests.usam.test_videos import write_video


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = resources(tmp_path, SimpleNamespace(predictor=usam.load("nano-s")))
    yield opened
    opened.store.close()


def test_what_was_followed_and_what_was_not_is_in_the_run_record(place: Resources, tmp_path: Path) -> None:
    data = {"video": uri(write_video(tmp_path / "a.mp4").read_bytes())}
    copy: Any = Copy(annotated(1, data, box()), annotated(2, data, region(key(0))))
    place.label_studio = copy
    assert track.run(place, 3) == "done"
    (run,) = place.store.runs(3, "track")
    assert run.reason.startswith("1 followed; 1 set aside: task 2: region r1: expected a key frame from 1")
    assert run.details["tasks"][0]["task"] == 1
    assert copy.kept.model_version == run.details["version"] == copy.of(1)[0]["model_version"]


def test_a_project_of_images_is_passed_over(place: Resources) -> None:
    assert track.run(place, 1) == "skipped"
    assert "a Video tag with VideoRectangle on it" in place.store.runs(1, "track")[0].reason
