"""Videos as pictures of a project: frames that differ enough, as files whose names say the video and the time.

Frames are compared as small gray pictures of `GRID` x `GRID` fields, by the mean difference of their brightness, in
0..1. A frame is taken where it differs enough from all that were taken, so that a camera that returns brings nothing
twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from usam.checkpoints.downloads import sha256_of
from usam.errors import ImageError
from usam.videos import Video

GRID = 16
LEAST_DIFFERENCE = 0.04
QUALITY = 92
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class FrameFile:
    """A frame as a JPEG, and the time in seconds at which it stands in the video."""

    path: Path
    seconds: float


class Different:
    """What was taken so far; `take` says whether a frame (H, W, 3) differs from all of it, and remembers it if so."""

    def __init__(self, least: float = LEAST_DIFFERENCE) -> None:
        self._least = least
        self._taken: list[npt.NDArray[np.float32]] = []

    def take(self, image: npt.NDArray[np.uint8]) -> bool:
        """Whether it is a picture of its own."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small = np.asarray(cv2.resize(gray, (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)
        if self._taken and np.abs(np.stack(self._taken) - small).mean((1, 2)).min() < self._least:
            return False
        self._taken.append(small)
        return True


def frame_name(video: Path, content: str, seconds: float) -> str:
    """The name of a frame's file; `content` tells the video from others of its name.

    >>> frame_name(Path("My street.mp4"), "9f86d0", 12.5)
    'My_street-9f86d0-t0012.50s.jpg'
    """
    return f"{_UNSAFE.sub('_', video.stem)[:60]}-{content}-t{seconds:07.2f}s.jpg"


def content_of(video: Path) -> str:
    """A few letters that another video does not have."""
    return sha256_of(video)[:6]


def frames_of(
    video: Video,
    folder: Path,
    *,
    every_s: float = 1.0,
    least: float = LEAST_DIFFERENCE,
    start: float = 0.0,
    seconds: float | None = None,
    there: Collection[str] = (),
) -> Iterator[FrameFile]:
    """Write the frames of a video that differ, one each `every_s` seconds at most, and give them one by one.

    `there`: names of pictures that the project has; frames among them are not written again, but count as taken. Raises
    `ImageError` as `Video` does.
    """
    different, content = Different(least), content_of(video.path)
    for frame in video.frames(start, seconds, max(round(every_s * video.rate), 1)):
        if not different.take(frame.image):
            continue
        name = frame_name(video.path, content, frame.seconds)
        if any(known.endswith(name) for known in there):
            continue
        path = folder / name
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
            raise ImageError(f"room and rights to write {path}", "neither or one of them", "free space, or set TMPDIR")
        yield FrameFile(path, frame.seconds)
