"""Images are decoded a few at a time, within the caps of the settings."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from backend.errors import EngineBusy
from backend.image_decoding import DECODED_PIXELS, STEP_BACK, DecodeGate, decode_image, step_back
from backend.settings import Settings
from tests.factories import picture, png
from usam.errors import ImageError


def test_few_images_are_decoded_at_once_and_a_large_one_alone() -> None:
    gate = DecodeGate(at_once=2)
    with gate.entered(6, 10, 0):
        with gate.entered(4, 10, 0), pytest.raises(EngineBusy, match="room to decode"), gate.entered(0, 10, 0):
            pass
        with pytest.raises(EngineBusy), gate.entered(5, 10, 0):
            pass
    with gate.entered(50, 10, 0), pytest.raises(EngineBusy), gate.entered(1, 10, 0):
        pass
    with gate.entered(10, 10, 0):
        pass


def test_who_waits_goes_in_when_another_comes_out() -> None:
    gate, entered = DecodeGate(at_once=1), threading.Event()

    def wait() -> None:
        with gate.entered(1, 10, 30):
            entered.set()

    waiting = threading.Thread(target=wait)
    with gate.entered(1, 10, 0):
        waiting.start()
        assert not entered.is_set()
    assert entered.wait(30)
    waiting.join()


def test_room_is_given_back_when_decoding_fails() -> None:
    gate = DecodeGate(at_once=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), gate.entered(10, 10, 0):
            raise ValueError("broken")


def test_a_refusal_says_when_to_come_back() -> None:
    gate = DecodeGate(at_once=1)
    with gate.entered(1, 10, 0), pytest.raises(EngineBusy) as caught, gate.entered(1, 10, 0):
        pass
    assert caught.value.retry_after > 0


def test_a_file_is_decoded_as_it_is_and_asks_for_room_for_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []

    class Gate:
        @contextmanager
        def entered(self, *room: float) -> Iterator[None]:
            asked.append(room)  # type: ignore[arg-type]
            yield

    monkeypatch.setattr("backend.image_decoding._GATE", Gate())
    settings = Settings(wait_seconds=7)
    np.testing.assert_array_equal(decode_image(png(picture(1)), settings), picture(1))
    assert asked == [(48 * 64, DECODED_PIXELS, 7)]


@pytest.mark.parametrize(
    ("caps", "reason"), [({"image_pixels": 48 * 64 - 1}, "pixels"), ({"fetch_bytes": 1024}, "bytes")]
)
def test_a_file_beyond_the_caps_never_waits_for_room(
    caps: dict[str, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.image_decoding._GATE", None)
    with pytest.raises(ImageError, match=reason):
        decode_image(png(picture()), Settings(**caps))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ImageError):
        decode_image(b"no image", Settings())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux")
def test_a_thread_that_steps_back_takes_no_other_with_it() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    with ThreadPoolExecutor(1, initializer=step_back) as pool:
        assert pool.submit(nice).result() >= max(before, STEP_BACK)
        assert pool.submit(step_back).exception() is None
    assert nice() == before
