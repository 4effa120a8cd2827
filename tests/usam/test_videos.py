"""Videos are read as they are needed, and what is none is a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from usam import videos
from usam.errors import ImageError
from usam.videos import Video, VideoWriter


def moving_square(number: int, side: int = 96) -> np.ndarray:
    """A light square on dark ground that moves to the right by two pixels a frame."""
    image = np.full((side, side, 3), (30, 40, 60), np.uint8)
    image[30:62, 10 + 2 * number : 42 + 2 * number] = (230, 190, 60)
    return image


def write_video(path: Path, count: int = 12, rate: float = 10.0) -> Path:
    with VideoWriter(path, rate) as writer:
        for number in range(count):
            writer.write(moving_square(number))
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mp4"))
    assert (video.width, video.height, video.count, video.rate) == (96, 96, 12, 10.0)
    frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(12))
    assert frames[3].seconds == pytest.approx(0.3)
    assert np.abs(frames[3].image.astype(int) - moving_square(3)).mean() < 8
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_a_part_and_every_third_frame(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mp4"))
    assert [frame.number for frame in video.frames(start=0.4, seconds=0.5)] == [4, 5, 6, 7, 8]
    assert [frame.number for frame in video.frames(every=3)] == [0, 3, 6, 9]
    assert video.part(0.4, 100.0) == (4, 8)
    with pytest.raises(ImageError, match="start earlier"):
        list(video.frames(start=5.0))


def test_what_is_no_video_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="check the path"):
        Video(tmp_path / "none.mp4")
    for content in (b"", b"not a video", write_video(tmp_path / "a.mp4").read_bytes()[:300]):
        (tmp_path / "broken.mp4").write_bytes(content)
        with pytest.raises(ImageError, match=r"expected a video with frames, got none in broken\.mp4"):
            Video(tmp_path / "broken.mp4")


def test_hours_are_not_read_unless_somebody_asks_for_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video(write_video(tmp_path / "a.mp4"))
    monkeypatch.setattr(video, "count", 4 * 3600 * 10)
    with pytest.raises(ImageError, match=r"got 240 minutes in a\.mp4; choose a part with --start and --seconds"):
        next(iter(video.frames()))
    assert video.part(0, 20.0) == (0, 200)
    monkeypatch.setattr(videos, "LONGEST_S", 1e9)
    assert video.part()[1] == video.count


def test_frames_of_another_size_end_it_by_name(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mp4"))
    video.width = 48
    with pytest.raises(ImageError, match=r"expected frames of 48 x 96 pixels throughout, got frame 0 of 96 x 96"):
        next(iter(video.frames()))


def test_a_writer_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    def cut_off() -> None:
        with VideoWriter(tmp_path / "b.mp4", 10) as writer:
            writer.write(moving_square(0))
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        cut_off()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImageError, match=r"ends in \.mp4"):
        VideoWriter(tmp_path / "b.avi", 10)
