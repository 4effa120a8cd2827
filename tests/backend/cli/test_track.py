"""`usam-backend track` says what became of each task, and prints all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import usam
from backend.cli import track
from tests.backend.cli.conftest import Command
from tests.backend.label_studio.test_video_regions import key, region
from tests.backend.pool.test_video_tracks import Copy, annotated, box, uri
from tests.usam.test_videos import write_video


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Copy:
    data = {"video": uri(write_video(tmp_path / "a.mp4").read_bytes())}
    copy = Copy(annotated(1, data, box()), {"id": 2, "data": data})

    @contextmanager
    def client(settings: Any) -> Iterator[Any]:
        yield copy

    monkeypatch.setenv("USAM_MODEL", "nano-s")
    monkeypatch.setattr(track, "open_label_studio", client)
    monkeypatch.setattr(track, "_load", lambda settings, heads: usam.load("nano-s"))
    return copy


def test_boxes_are_followed_and_told(command: Command, kept: Copy) -> None:
    done = command("track", "--project", "3", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["waiting"], told["set_aside"], told["tasks"][0]["task"]) == ([2], {}, 1)
    assert told["version"].startswith("nano-s+")
    assert "task 1: 12 frames, least sure" in done.stderr
    assert "no box to follow yet: task 2" in done.stderr
    assert "1 followed, 0 as before, 0 set aside" in done.stderr
    assert kept.kept.model_version == told["version"]
    assert "0 followed, 1 as before" in command("track", "--project", "3").stderr


def test_a_task_that_is_set_aside_is_named_and_ends_with_2(command: Command, kept: Copy) -> None:
    kept.items[2]["annotations"] = [{"id": 2, "result": [region(key(0))]}]
    done = command("track", "--project", "3", "--task", "2", "--task", "1")
    assert done.exit_code == 2
    assert "task 2 is set aside: region r1: expected a key frame from 1" in done.stderr
    assert [len(kept.of(number)) for number in (1, 2)] == [1, 0]
