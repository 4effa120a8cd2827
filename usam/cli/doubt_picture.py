"""A frame of a video with its object, and how sure the model was of it up to then.

Legend: H, W the frame in pixels; N frames so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usam.predictor.tracking import TrackedFrame

UInt8Image = npt.NDArray[np.uint8]
LINES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "iou": ("predicted IoU", (0, 150, 110)),
    "task_gap": ("task gap: which object is meant", (213, 94, 0)),
    "prompt_gap": ("prompt gap: more clicks", (180, 60, 160)),
    "model_gap": ("model gap: a bigger model", (0, 114, 255)),
}
"""What is drawn: its words and its colour (RGB)."""
LARGEST_GAP = 0.5
PLOT_HEIGHT, LEGEND_HEIGHT = 120, 44
_PAPER, _INK, _GRID = (250, 250, 248), (32, 36, 40), (216, 218, 218)
_TINT = np.array([0, 114, 255], np.float32)


def draw_frame(image: UInt8Image, tracked: TrackedFrame) -> UInt8Image:
    """The frame (H, W, 3) with its object tinted and outlined; words where it is out of sight or was not found."""
    drawn = image.copy()
    if tracked.is_found:
        drawn[tracked.mask] = (0.55 * drawn[tracked.mask] + 0.45 * _TINT).astype(np.uint8)
        outlines, _ = cv2.findContours(tracked.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 2)
    else:
        words = "out of sight" if tracked.is_out_of_sight else "not found"
        _write(drawn, words, (16, 32), (255, 255, 255), 0.8, 4)
        _write(drawn, words, (16, 32), (213, 94, 0), 0.8, 2)
    return drawn


def draw_doubt(image: UInt8Image, history: Sequence[TrackedFrame], total: int) -> UInt8Image:
    """The last frame of `history` above a plot of all N, on an axis for `total` frames: (H + plot, W, 3)."""
    frame = draw_frame(image, history[-1])
    width = frame.shape[1]
    plot: UInt8Image = np.full((PLOT_HEIGHT + LEGEND_HEIGHT, width, 3), _PAPER, np.uint8)
    for share in (0.0, 0.5, 1.0):
        height = _down(share)
        cv2.line(plot, (0, height), (width, height), _GRID, 1)
        _write(plot, f"{share:g}", (2, height - 3), _INK, 0.35, 1)
    for number, (name, (words, colour)) in enumerate(LINES.items()):
        values = [share_of(name, one) for one in history]
        if all(value is None for value in values):
            continue
        for index in range(1, len(values)):
            before, now = values[index - 1], values[index]
            if before is not None and now is not None:
                ends = [(round(place * (width - 1) / max(total - 1, 1))) for place in (index - 1, index)]
                cv2.line(plot, (ends[0], _down(before)), (ends[1], _down(now)), colour, 2, cv2.LINE_AA)
        place = (8 + (number % 2) * (width // 2), PLOT_HEIGHT + 16 + 20 * (number // 2))
        last = _value(name, history[-1])
        _write(plot, words + (f"  {last:.2f}" if last is not None else ""), place, colour, 0.42, 1)
    both = np.concatenate([frame, plot])
    return both[: both.shape[0] // 2 * 2, : width // 2 * 2]


def share_of(name: str, tracked: TrackedFrame) -> float | None:
    """Where a value stands between the plot's bottom (0) and top (1); gaps as a share of the largest there can be."""
    value = _value(name, tracked)
    if value is None:
        return None
    return float(min(max(value if name == "iou" else value / LARGEST_GAP, 0.0), 1.0))


def _value(name: str, tracked: TrackedFrame) -> float | None:
    if not tracked.is_found:
        return None
    return tracked.iou if name == "iou" else tracked.scores.get(name)


def _down(share: float) -> int:
    return round(16 + (1 - share) * (PLOT_HEIGHT - 22))


def _write(image: UInt8Image, words: str, place: tuple[int, int], colour: Any, size: float, weight: int) -> None:
    cv2.putText(image, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, weight, cv2.LINE_AA)
