"""Videos become tasks; one that cannot be read is set aside by name, and a second time brings nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import import_video
from tests.backend.cli.conftest import Command
from tests.backend.label_studio.test_video_frames import write_scenes


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that the project has, as Label Studio keeps them."""
    names: list[str] = []

    def upload(project: int, paths: list[Path]) -> int:
        names.extend(f"0a1b2c3d-{path.name}" for path in paths if path.is_file())
        return len(paths)

    @contextmanager
    def client(settings: Any) -> Iterator[Any]:
        tasks = [SimpleNamespace(data={"image": f"/data/upload/1/{name}"}) for name in names]
        yield SimpleNamespace(tasks=lambda project: tasks, upload=upload)

    monkeypatch.setattr(import_video, "open_label_studio", client)
    return names


def test_frames_are_uploaded_once(command: Command, uploaded: list[str], tmp_path: Path) -> None:
    video = write_scenes(tmp_path / "street.mp4", 20, 90, 160)
    words = ("import-video", video, "--project", "3", "--every", "0.1", "--json")
    done = command(*words)
    assert done.exit_code == 0, done.stderr
    (told,) = json.loads(done.stdout)["videos"]
    assert told["tasks"] == 3
    assert told["frames"] == [name.partition("-")[2] for name in uploaded]
    assert "street.mp4: 3 frames uploaded" in done.stderr
    assert json.loads(command(*words).stdout)["videos"][0]["tasks"] == 0
    assert len(uploaded) == 3


def test_a_broken_video_is_set_aside_and_the_others_go_on(
    command: Command, uploaded: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = write_scenes(tmp_path / "good.mp4", 20, 90)
    done = command("import-video", broken, good, "--project", "3", "--every", "0.1", "--json")
    assert done.exit_code == 2
    assert "broken.mp4 is set aside: expected a video with frames" in done.stderr
    assert [told["tasks"] for told in json.loads(done.stdout)["videos"]] == [0, 2]
    assert len(uploaded) == 2
