"""Image files into pixels, a few at a time: what is decoded at once is bounded in number and in pixels."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from backend.errors import EngineBusy
from backend.settings import Settings
from usam.images import read_image, read_size

UInt8Image = npt.NDArray[np.uint8]

STEP_BACK = 10
"""Niceness of threads that decode."""
DECODED_AT_ONCE = 2
DECODED_PIXELS = 50_000_000
"""Pixels of all images decoded at once; a larger one is decoded alone."""


class DecodeGate:
    """Lets few images be decoded at once, in this process, and of large ones fewer. Safe to share between threads."""

    def __init__(self, at_once: int = DECODED_AT_ONCE) -> None:
        self._free, self._pixels = at_once, 0
        self._changed = threading.Condition()

    @contextmanager
    def entered(self, pixels: int, most: int, seconds: float) -> Iterator[None]:
        """Wait until there is room for `pixels` beside the others, of `most` in all; one alone always has room.

        Raises `EngineBusy` where there is none within `seconds`.
        """

        def has_room() -> bool:
            return self._free > 0 and (self._pixels == 0 or self._pixels + pixels <= most)

        with self._changed:
            if not self._changed.wait_for(has_room, seconds):
                raise EngineBusy("room to decode an image", "others that take long", "try again", retry_after=10.0)
            self._free, self._pixels = self._free - 1, self._pixels + pixels
        try:
            yield
        finally:
            with self._changed:
                self._free, self._pixels = self._free + 1, self._pixels - pixels
                self._changed.notify_all()


def step_back() -> None:
    """Let this thread have the processor when no other wants it, as far as the system can do so: for threads that fetch
    and decode, beside which somebody clicks."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(STEP_BACK, os.getpriority(os.PRIO_PROCESS, thread)))


_GATE = DecodeGate()


def decode_image(data: bytes, settings: Settings) -> UInt8Image:
    """Decode a file within the caps of the settings, few at once. Raises `ImageError`, or `EngineBusy` where no turn
    comes."""
    limits = {"max_pixels": settings.image_pixels, "max_bytes": settings.fetch_bytes}
    height, width = read_size(data, **limits)
    with _GATE.entered(height * width, DECODED_PIXELS, settings.wait_seconds):
        return read_image(data, **limits)
