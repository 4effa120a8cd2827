"""Run-length coding of brush masks against the Label Studio SDK's converter, on the same masks in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from label_studio_sdk.converter import brush

from bench.rows import Row
from usam.masks import decode_rle, encode_rle

IMAGE_HW = (2160, 3840)
NOISE = 0.02
ROUNDS = 5
TARGET = 0.1


def run() -> list[Row]:
    """Time of ours over time of theirs, encode and decode, for a 4K ellipse with 2 % noise and one without."""
    return [*_compare("4K mask, 2 % noise", NOISE, TARGET), *_compare("4K mask, smooth", 0.0, TARGET)]


def _compare(what: str, noise: float, target: float) -> list[Row]:
    mask = _ellipse(noise)
    alpha = mask.astype(np.uint8) * 255
    code = encode_rle(mask)
    if code != brush.mask2rle(alpha) or (decode_rle(code, IMAGE_HW) != alpha).any():
        raise AssertionError("the two converters disagree; a ratio of times would mean nothing")
    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "encode": (lambda: encode_rle(mask), lambda: brush.mask2rle(alpha)),
        "decode": (lambda: decode_rle(code, IMAGE_HW), lambda: brush.decode_rle(code)),
    }
    rows = []
    for step, (ours, theirs) in steps.items():
        pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
        mine, other = np.median(pairs, axis=0)
        rows.append(
            Row(
                figure=f"RLE {step}, {what}",
                value=float(np.median([a / b for a, b in pairs])),
                unit="ratio of seconds",
                against=f"label_studio_sdk {version('label_studio_sdk')}",
                target=f"<= {target}",
                note=f"{1000 * mine:.1f} ms against {1000 * other:.1f} ms, medians of {ROUNDS}, {len(code):,} integers",
            )
        )
    return rows


def _ellipse(noise: float) -> npt.NDArray[np.bool_]:
    height, width = IMAGE_HW
    y, x = np.ogrid[:height, :width]
    inside = ((x - width / 2) / (width / 3)) ** 2 + ((y - height / 2) / (height / 3)) ** 2 < 1
    return np.asarray(inside ^ (np.random.default_rng(0).random(IMAGE_HW) < noise))


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
