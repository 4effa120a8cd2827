"""Single frames of a video file, read forward where possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import ImageError

_latest: tuple[Path, Any, int] | None = None


def read_frame(path: Path, number: int) -> npt.NDArray[np.uint8]:
    """Frame `number` (from 0) as (H, W, 3) RGB uint8.

    The video last read from stays open, so that frames asked for in order are each decoded once. Raises
    `ImageError` when the file is no readable video or ends before that frame.
    """
    global _latest
    if _latest is None or _latest[0] != path or _latest[2] > number:
        if _latest is not None:
            _latest[1].release()
        _latest = None
        video = cv2.VideoCapture(str(path))
        if not video.isOpened():
            raise ImageError("a video that OpenCV reads", f"{path}", "fetch it again")
        _latest = (path, video, 0)
    _, video, position = _latest
    while position < number:
        if not video.grab():
            break
        position += 1
    found, frame = video.read()
    _latest = (path, video, position + 1)
    if not found or position != number:
        raise ImageError(f"a video with a frame {number}", f"{path}, which ends before", "fetch it again")
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
