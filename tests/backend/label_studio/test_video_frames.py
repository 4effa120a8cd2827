"""Frames of a video: those that differ, with names that say where they are from, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.label_studio.video_frames import Different, content_of, frame_name, frames_of
from usam.images import read_image
from usam.videos import Video, VideoWriter


def scene(level: int) -> np.ndarray:
    image = np.full((48, 64, 3), level, np.uint8)
    image[10:20, 10:30] = 250
    return image


def write_scenes(path: Path, *levels: int, each: int = 5) -> Path:
    with VideoWriter(path, 10) as writer:
        for level in levels:
            for _ in range(each):
                writer.write(scene(level))
    return path


def test_a_camera_that_returns_brings_nothing_twice(tmp_path: Path) -> None:
    video = Video(write_scenes(tmp_path / "a b.mp4", 20, 90, 20, 160))
    out = tmp_path / "out"
    out.mkdir()
    found = list(frames_of(video, out, every_s=0.1))
    assert [frame.seconds for frame in found] == [0.0, 0.5, 1.5]
    assert [frame.path.name for frame in found] == [
        frame_name(video.path, content_of(video.path), seconds) for seconds in (0, 0.5, 1.5)
    ]
    assert read_image(found[1].path).shape == (48, 64, 3)
    assert [frame.seconds for frame in frames_of(video, out, every_s=1.0, least=0)] == [0.0, 1.0]


def test_what_the_project_has_is_not_written_again(tmp_path: Path) -> None:
    video = Video(write_scenes(tmp_path / "a.mp4", 20, 90))
    there = {"0f1e2d3c-" + frame_name(video.path, content_of(video.path), 0.0)}
    assert [frame.seconds for frame in frames_of(video, tmp_path, every_s=0.1, there=there)] == [0.5]


def test_another_video_of_the_same_name_is_not_what_the_project_has(tmp_path: Path) -> None:
    """Cameras number their files alike."""
    (tmp_path / "front").mkdir()
    front, rear = (
        Video(write_scenes(tmp_path / name, level)) for name, level in (("front/01.mp4", 20), ("01.mp4", 90))
    )
    there = {"0f1e2d3c-" + frame_name(front.path, content_of(front.path), 0.0)}
    assert [frame.seconds for frame in frames_of(rear, tmp_path, there=there)] == [0.0]


def test_different_is_different_from_all_that_was_taken() -> None:
    different = Different()
    assert [different.take(scene(level)) for level in (20, 22, 90, 21, 91, 160)] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
