"""Videos are read as they are needed, and what is none is a sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
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


def test_a_file_that_does_not_say_how_long_it_is_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers record so: without it, one frame of them was read."""
    honest = cv2.VideoCapture

    class Silent:
        def __init__(self, path: str) -> None:
            self._file = honest(path)

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def get(self, what: int) -> float:
            known = {cv2.CAP_PROP_FRAME_COUNT: -9.2e16, cv2.CAP_PROP_FPS: 1000.0}
            return known[what] if what in known else self._file.get(what)

    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    video = Video(path)
    assert (video.count, round(video.rate, 3)) == (12, 10.0)
    assert [frame.number for frame in video.frames()] == list(range(12))


def test_frames_that_take_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(videos, "MOST_PIXELS", 95 * 96)
    with pytest.raises(ImageError, match=r"got 96 x 96 in a\.mp4; make the video smaller"):
        Video(path)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:2,\n{}", "ffconcat version 1.0\nfile '{}'", "<?xml?><MPD>{}</MPD>"])
def test_a_list_of_other_files_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.mp4"
    path.write_text(text.format(write_video(tmp_path / "a.mp4")))
    with pytest.raises(ImageError, match="a list of others"):
        Video(path)


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
