"""Videos in and out: frames one by one as they are needed, with what a file must be said in a sentence.

Legend: H, W height and width of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import ImageError
from usam.files import replacing

UInt8Image = npt.NDArray[np.uint8]
LONGEST_S = 600.0
"""Seconds of a video that are read at most where nobody said how many."""
USUAL_RATE = 25.0
"""Frames a second of a file that does not say."""
MOST_PIXELS = 8192 * 4320
"""Of a frame: what packs into a megabyte may take gigabytes to decode."""
HEAD_BYTES = 4096
_LISTS = (b"#extm3u", b"ffconcat", b"<mpd", b"<smoothstreaming", b"<compositionplaylist", b"c=in ip")
"""Signs of files that hold no video but name other files to be opened."""


@dataclass(frozen=True)
class Frame:
    """One frame: its place from 0, its time in seconds from the start, and its picture (H, W, 3) RGB."""

    number: int
    seconds: float
    image: UInt8Image


class Video:
    """A video file: `rate` frames a second, about `count` frames of `width` x `height` pixels.

    A file that does not say how many frames it has, as browsers record them, is counted to its end. Raises `ImageError`
    where the file is missing, is no video, has no frame, or frames of more than `MOST_PIXELS`. Iterating gives `Frame`s
    and raises `ImageError` where their size changes on the way.

    Examples
    --------
    >>> for frame in Video("street.mp4").frames(start=2.0, seconds=5.0):  # doctest: +SKIP
    ...     print(frame.number, frame.image.shape)
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError("a video file", f"no file {self.path}", "check the path")
        with self.path.open("rb") as file:
            head = file.read(HEAD_BYTES).lower()
        if any(sign in head for sign in _LISTS):
            raise ImageError("a video file", f"a list of others, {self.path.name}", "give the video itself")
        capture = cv2.VideoCapture(str(self.path))
        try:
            width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            if width * height > MOST_PIXELS:
                most = f"frames of at most {MOST_PIXELS / 1e6:.0f} megapixels"
                raise ImageError(most, f"{width} x {height} in {self.path.name}", "make the video smaller")
            found, first = capture.read() if capture.isOpened() else (False, None)
            if not found or first is None:
                raise ImageError("a video with frames", f"none in {self.path.name}", "is it a video, and whole?")
            self.height, self.width = first.shape[:2]
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            self.rate = rate if 0.1 <= rate <= 1000 else USUAL_RATE
            self.count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if self.count < 1:
                self.count, self.rate = _measured(capture, self.rate)
        finally:
            capture.release()

    @property
    def seconds(self) -> float:
        """How long it takes to play."""
        return self.count / self.rate

    def part(self, start: float = 0.0, seconds: float | None = None) -> tuple[int, int]:
        """First frame and number of frames of a part, as far as the file's own count goes.

        Raises `ImageError` for a start behind the end, and for more than `LONGEST_S` that nobody asked for.
        """
        first = round(start * self.rate)
        if start < 0 or first >= self.count:
            raise ImageError(f"a start within {self.seconds:.1f} s", f"{start:g} s", "start earlier")
        left = (self.count - first) / self.rate
        if seconds is None and left > LONGEST_S:
            raise ImageError(
                f"at most {LONGEST_S / 60:.0f} minutes of video",
                f"{left / 60:.0f} minutes in {self.path.name}",
                "choose a part with --start and --seconds",
            )
        return first, min(self.count - first, max(round((seconds or left) * self.rate), 1))

    def frames(self, start: float = 0.0, seconds: float | None = None, every: int = 1) -> Iterator[Frame]:
        """The frames of a part, every `every`-th. Raises `ImageError` as `part` does, and where the size changes."""
        first, count = self.part(start, seconds)
        capture = cv2.VideoCapture(str(self.path))
        try:
            for number in range(first + count):
                wanted = number >= first and (number - first) % every == 0
                found, image = capture.read() if wanted else (capture.grab(), None)
                if not found:
                    return
                if image is None:
                    continue
                if image.shape[:2] != (self.height, self.width):
                    raise ImageError(
                        f"frames of {self.width} x {self.height} pixels throughout",
                        f"frame {number} of {image.shape[1]} x {image.shape[0]}",
                        "cut the video where its size changes",
                    )
                picture = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(number, number / self.rate, picture)
        finally:
            capture.release()


def _measured(capture: cv2.VideoCapture, rate: float) -> tuple[int, float]:
    """How many frames a file has whose first one was read, and how many a second; the latter is `rate` where their
    times do not tell. No more than `LONGEST_S` are looked at."""
    count, seconds = 1, 0.0
    while seconds <= LONGEST_S and count <= LONGEST_S * 1000 and capture.grab():
        count, seconds = count + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    return count, (count - 1) / seconds if seconds > 0 else rate


class VideoWriter:
    """Writes RGB frames to an .mp4, which appears under its name when it is whole. A context manager.

    Raises `ImageError` for another suffix, and where this machine's OpenCV cannot write it.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if path.suffix.lower() != ".mp4":
            raise ImageError("a file name that ends in .mp4", path.name, "name it so")
        self._rate, self._target = rate, replacing(path)
        self._file = self._target.__enter__()
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: UInt8Image) -> None:
        """Add a frame (H, W, 3), all of one size."""
        if self._writer is None:
            size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(str(self._file), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, size)
            if not self._writer.isOpened():
                raise ImageError("an OpenCV that writes MPEG-4", "one that does not", "install opencv-python-headless")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._target.__exit__(kind, error, trace)
