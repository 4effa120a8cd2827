"""A video becomes tasks of a real Label Studio, once, and its pictures can be read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Project
from tests.backend.cli.conftest import Command, command
from tests.backend.label_studio.test_video_frames import write_scenes
from tests.factories import label_config

pytestmark = pytest.mark.e2e
__all__ = ["command"]


@pytest.fixture
def project(label_studio: LabelStudio) -> Project:
    return label_studio.create_project("frames", label_config("thing"))


def test_frames_are_tasks_once(
    label_studio: LabelStudio, project: Project, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio._tokens._key)
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "none"))
    before = {task.id for task in label_studio.tasks(project.id)}
    video = write_scenes(tmp_path / "street view.mp4", 20, 90, 160)
    words = ("import-video", video, "--project", project.id, "--every", "0.1")
    done = command(*words)
    assert done.exit_code == 0, done.stderr
    made = [task for task in label_studio.tasks(project.id) if task.id not in before]
    assert len(made) == 3
    assert all("street_view-" in str(task.data["image"]) for task in made)
    assert command(*words).exit_code == 0
    assert len(list(label_studio.tasks(project.id))) == len(before) + 3, "a second time brings nothing"
