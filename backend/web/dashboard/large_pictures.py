"""Large pictures of one task: its proposals with numbers, their other readings, and where the masks are in doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt

from backend.errors import ITEM_ERRORS
from backend.pool.kept_objects import KeptObjects, Reading
from backend.web.dashboard.thumbnails import UInt8Image, drawn
from usam.masks import resize_logits

if TYPE_CHECKING:
    from backend.store.records import ProposalRow

DIMMED = 0.45
"""How bright a picture stays below a map of doubt."""
BoolMask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def large_picture(
    image: UInt8Image,
    row: ProposalRow | None,
    shown: Sequence[int],
    view: Literal["proposals", "readings", "doubt"],
) -> UInt8Image:
    """The picture (H, W, 3) of a task with what `view` wants drawn in. `shown` are the numbers of its candidates that
    people see; objects count from 1 in their order. What is not kept, or cannot be read, is left out."""
    kept = kept_of(row)
    hw = image.shape[0], image.shape[1]
    if kept is None:
        return image
    rows = [number for number in shown if number < len(kept)]
    if view == "doubt":
        return doubt_drawn(image, (logits_of(kept, number) for number in rows))
    masks: dict[int, BoolMask] = {}
    for place, number in enumerate(rows, 1):
        with suppress(*ITEM_ERRORS):
            if view == "proposals":
                masks[place] = kept.mask(number, hw)
            elif (other := other_reading(kept, number)) is not None:
                masks[place] = resize_logits(other, hw) > 0
    return numbered(image, masks, len(rows))


def kept_of(row: ProposalRow | None) -> KeptObjects | None:
    """What is kept of a task; None where nothing is, or it cannot be read."""
    with suppress(*ITEM_ERRORS):
        if row is not None and row.arrays:
            return KeptObjects.unpack(row)
    return None


def logits_of(kept: KeptObjects, number: int) -> Floats:
    """(h, w) of a candidate as it is shown. Raises `MaskError`."""
    better = kept.larger.get(number)
    return _logits(better) if better is not None else np.asarray(kept.masks.logits([number])[0], np.float32)


def other_reading(kept: KeptObjects, number: int) -> Floats | None:
    """(h, w) of what a candidate might be instead: another meaning of its prompt, else what the first model made of it
    before the larger one; None where there is neither. Raises `MaskError`."""
    if number in kept.alternatives:
        return _logits(kept.alternatives[number])
    return np.asarray(kept.masks.logits([number])[0], np.float32) if number in kept.larger else None


def numbered(image: UInt8Image, masks: dict[int, BoolMask], count: int) -> UInt8Image:
    """The picture (H, W, 3) with masks (H, W) by their numbers from 1 to `count`, each in its number's colour with the
    number at the place that is deepest within it."""
    hw = image.shape[:2]
    every = [masks.get(number, np.zeros(hw, bool)) for number in range(1, count + 1)]
    canvas = np.ascontiguousarray(drawn(image, every))
    size = max(min(hw) / 700, 0.45)
    for number, mask in masks.items():
        if not mask.any():
            continue
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = divmod(int(depth.argmax()), hw[1])
        text, weight = str(number), max(round(size * 2), 1)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, weight)
        radius = round(max(width, height) * 0.75) + 3
        column = int(np.clip(column, radius, max(hw[1] - radius, radius)))
        row = int(np.clip(row, radius, max(hw[0] - radius, radius)))
        cv2.circle(canvas, (column, row), radius, (20, 26, 32), -1, cv2.LINE_AA)
        at = column - width // 2, row + height // 2
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), weight, cv2.LINE_AA)
    return canvas


def doubt_of(logits: Floats, hw: tuple[int, int]) -> Floats:
    """(H, W) entropy in bits, 0..1, of a mask's probability in each pixel of an image of `hw`, from logits (h, w)."""
    p = 1 / (1 + np.exp(-np.clip(resize_logits(logits, hw), -30, 30)))
    q = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(-(q * np.log2(q) + (1 - q) * np.log2(1 - q)), np.float32)


def doubt_drawn(image: UInt8Image, logits: Iterator[Floats]) -> UInt8Image:
    """The picture (H, W, 3), dim and grey, with the largest doubt of any mask in each pixel, from black over red to
    yellow (`doubt_of`)."""
    hw = image.shape[0], image.shape[1]
    doubt = np.zeros(hw, np.float32)
    with suppress(*ITEM_ERRORS):
        for one in logits:
            np.maximum(doubt, doubt_of(one, hw), out=doubt)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * DIMMED
    colour = cv2.applyColorMap((doubt * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    covers = np.sqrt(doubt)[..., None]
    return np.asarray((grey * (1 - covers) + colour * covers).round().clip(0, 255), np.uint8)


def _logits(reading: Reading) -> Floats:
    return np.asarray(reading.logits.logits([0])[0], np.float32)
