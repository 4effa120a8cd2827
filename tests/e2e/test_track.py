"""A box drawn on one frame of a video in a real Label Studio is followed, and the boxes are where the object is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.jobs.entry import run_job
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Project
from backend.label_studio.setup import VIDEO_VIEW_TITLE, connect, disconnect
from backend.label_studio.video_regions import boxes_of
from backend.local.redis_server import RedisServer
from backend.resources import Resources
from backend.settings import Settings
from tests.backend.cli.conftest import Command, command
from tests.backend.label_studio.test_video_config import VIDEO
from usam.masks.overlap import mask_box, paired_iou
from usam.videos import VideoWriter

pytestmark = pytest.mark.e2e
__all__ = ["command"]
Sequence_ = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def project(label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio._tokens._key)
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "none"))
    return label_studio.create_project("videos", VIDEO)


def drawn_scene() -> Sequence_:
    """A ball that rolls over a meadow, slows down, and stops."""
    rng = np.random.default_rng(0)
    ground = np.clip(rng.normal((70, 110, 60), 6, (240, 320, 3)), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:240, :320]
    frames = []
    for number in range(30):
        x, y = 60 + 8 * min(number, 20), 120 + 20 * np.sin(number / 6)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < 30**2
        image = ground.copy()
        image[mask] = (220, 90, 40)
        frames.append((image, mask))
    return frames


def real_sequence() -> Sequence_:
    from bench.video import real_sequences

    return next(iter(real_sequences(Path(os.environ["USAM_SHARED"]) / "data")))[1]


def write(path: Path, frames: Sequence_, rate: float = 25.0) -> Path:
    with VideoWriter(path, rate) as writer:
        for image, _ in frames:
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            writer.write(even)
    return path


def percent(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes (N, 4) of masks in percent of the frame that was written."""
    height, width = (side // 2 * 2 for side in masks[0].shape)
    return np.array([mask_box(mask) for mask in masks]) / [width, height, width, height] * 100


def key_frame(box: np.ndarray, frame: int, count: int, label: str = "car") -> dict[str, Any]:
    """What the editor sends of a box drawn on one frame."""
    x0, y0, x1, y1 = (float(side) for side in box)
    place = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}
    sequence = [{"frame": frame, "enabled": True, **place, "time": frame / 25}]
    value = {"framesCount": count, "duration": count / 25, "sequence": sequence, "labels": [label]}
    return {
        "id": f"box{frame}", "from_name": "box", "to_name": "video", "type": "videorectangle", "origin": "manual",
        "value": value,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scene", "least"),
    [(drawn_scene, 0.85), pytest.param(real_sequence, 0.85, marks=pytest.mark.shared)],
    ids=["drawn", "DAVIS"],
)
def test_a_box_on_one_frame_is_followed_to_the_end(
    label_studio: LabelStudio,
    project: Project,
    command: Command,
    tmp_path: Path,
    scene: Callable[[], Sequence_],
    least: float,
) -> None:
    frames = scene()
    truth, count = percent([mask for _, mask in frames]), len(frames)
    label_studio.upload(project.id, [write(tmp_path / "car.mp4", frames), write(tmp_path / "other.mp4", frames[:4])])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    label_studio.upload(project.id, [broken])
    task, other, bad = list(label_studio.tasks(project.id))
    drawn = label_studio.annotate(task.id, [key_frame(truth[2], 3, count)])
    label_studio.annotate(bad.id, [key_frame(truth[0], 1, count)])

    done = command("track", "--project", project.id, "--json")
    assert done.exit_code == 2, done.stderr
    told = json.loads(done.stdout)
    assert told["waiting"] == [other.id]
    assert "expected a video with frames" in told["set_aside"][str(bad.id)]
    (followed,) = told["tasks"]
    (prediction,) = label_studio.predictions(project.id, [task.id])
    (region,) = prediction.result
    assert (region["value"]["labels"], region["value"]["framesCount"]) == (["car"], count)
    boxes = boxes_of(region["value"]["sequence"], count)
    assert np.isnan(boxes[:2]).all()
    assert paired_iou(boxes[2:], truth[2:]).mean() > least
    assert len(region["value"]["sequence"]) == followed["key_frames"] < (count - 2) / 2
    assert prediction.score == pytest.approx(min(region["meta"]["confidence"]), abs=0.01)
    assert followed["look_at"] == [region["meta"]["look_at"]]

    assert [one.updated_at for one in label_studio.annotations(project.id, [task.id])] == [drawn.updated_at]
    assert label_studio.project(project.id).model_version == prediction.model_version == told["version"]
    command("track", "--project", project.id)
    assert [one.id for one in label_studio.predictions(project.id, [task.id])] == [prediction.id]


def test_a_connected_project_follows_what_is_submitted(
    label_studio: LabelStudio, project: Project, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:9"  # whoever listens there: what an event does is wake the job that runs here
    settings = Settings.from_environment(data_dir=tmp_path, redis_url=redis_server.url)
    steps = list(connect(label_studio, settings, project.id, url))
    assert not any(step.failed for step in steps), steps
    assert [hook.url for hook in label_studio.webhooks(project.id)] == [f"{url}/webhook"]
    frames = drawn_scene()
    truth, count = percent([mask for _, mask in frames]), len(frames)
    label_studio.upload(project.id, [write(tmp_path / "ball.mp4", frames)])
    (task,) = label_studio.tasks(project.id)
    label_studio.annotate(task.id, [key_frame(truth[0], 1, count)])
    with Resources.open(settings) as resources:
        resources.store.join(project.id, project.stamp)
        run_job(resources, "sync", project.id)
        assert [job.name for job in resources.queue.states()] == ["track"]
        run_job(resources, "track", project.id)
        run_job(resources, "track", project.id)
        assert [run.reason for run in resources.store.runs(project.id, "track")] == ["0 followed", "1 followed"]
    (prediction,) = label_studio.predictions(project.id, [task.id])
    boxes = boxes_of(prediction.result[0]["value"]["sequence"], count)
    assert paired_iou(boxes, truth).mean() > 0.85
    (view,) = [view for view in label_studio.views(project.id) if view.title == VIDEO_VIEW_TITLE]
    listed = label_studio._object("GET", "/api/tasks", params={"view": view.id, "page": 1, "page_size": 5})
    assert [one["id"] for one in listed["tasks"]] == [task.id]
    assert [step.name for step in disconnect(label_studio, project.id)] == ["webhook", "view", "queue"]


def test_a_draft_is_followed_and_a_redrawn_box_replaces_the_prediction(
    label_studio: LabelStudio, project: Project, command: Command, tmp_path: Path
) -> None:
    frames = drawn_scene()
    truth, count = percent([mask for _, mask in frames]), len(frames)
    label_studio.upload(project.id, [write(tmp_path / "ball.mp4", frames)])
    (task,) = label_studio.tasks(project.id)
    path = f"/api/tasks/{task.id}/drafts"
    draft = label_studio._object("POST", path, json={"result": [key_frame(truth[0], 1, count)], "lead_time": 1})
    assert command("track", "--project", project.id).exit_code == 0
    (first,) = label_studio.predictions(project.id, [task.id])
    changed = {"result": [key_frame(truth[9], 10, count)]}
    label_studio._object("PATCH", f"/api/drafts/{draft['id']}/", json=changed)
    assert command("track", "--project", project.id, "--seconds", "0.4").exit_code == 0
    (second,) = label_studio.predictions(project.id, [task.id])
    assert second.id != first.id
    sequence = second.result[0]["value"]["sequence"]
    assert [sequence[0]["frame"], sequence[-1]["frame"], sequence[-1]["enabled"]] == [10, 20, False]
