"""A picture for people: the masks side by side on the image, their scores below in plain words.

Legend: H, W the image in pixels; M masks of one prompt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from usam.errors import ImageError, MaskError

PANEL = 420
"""Side in pixels of the square into which each view of the image is fitted."""

_MARGIN, _ROW, _BAR_LEFT, _BAR_WIDTH = 20, 30, 228, 120
_PAPER, _INK, _PALE, _TRACK = (250, 250, 248), (32, 36, 40), (104, 110, 116), (224, 226, 226)
_MASK, _GOOD, _ALARM = (0, 114, 255), (0, 140, 110), (213, 94, 0)
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_GAPS = {
    "task_gap": "Unclear which is meant",
    "prompt_gap": "More clicks would add",
    "model_gap": "A bigger model would add",
}
_LARGEST_GAP = 0.5
_LEGEND = (
    "Green: expected overlap with what a person would draw, 0 to 1.",
    "Orange: overlap that could still be won, and by what.",
)


def draw_overlay(
    image: npt.NDArray[np.uint8],
    masks: npt.NDArray[Any],
    ious: npt.NDArray[np.float32],
    scores: Mapping[str, npt.NDArray[np.float32]],
    points: Sequence[Sequence[float]] = (),
    labels: Sequence[int] = (),
    box: Sequence[float] | None = None,
    *,
    quality: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw the masks of one prompt side by side.

    Args:
        image: (H, W, 3) RGB.
        masks: (M, H, W), true or above zero on the object.
        ious: (M,) SAM's own estimate of the masks' IoU, 0..1.
        scores: (M,) per head; IoUs 0..1, gaps about -0.5..0.5 (higher = more to gain).
        points, labels: (K, 2) x, y in pixels of the image and (K,) 1 on the object, 0 beside it.
        box: x0, y0, x1, y1 in pixels of the image.
        quality: the score that predicts the IoU of these masks; None leaves that to SAM's own.

    Returns (h, w, 3) RGB uint8. Raises MaskError when masks and image, or masks and scores, differ in size.
    """
    height, width = image.shape[:2]
    if masks.ndim != 3 or masks.shape[1:] != (height, width):
        raise MaskError(f"masks of shape (M, {height}, {width})", str(masks.shape))
    uneven = {name: np.shape(values) for name, values in {"ious": ious, **scores}.items()}
    uneven = {name: shape for name, shape in uneven.items() if shape != (len(masks),)}
    if uneven:
        raise MaskError(f"one score for each of {len(masks)} masks", f"{uneven}")
    ratio = PANEL / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    predicted = None if quality is None else scores[quality]
    best = int(np.argmax(ious if predicted is None else predicted))
    rows = [
        ("Predicted quality", predicted, False),
        ("SAM's own score", ious, False),
        *((words, scores.get(name), True) for name, words in _GAPS.items()),
    ]
    shown = [(words, values, is_gap) for words, values, is_gap in rows if values is not None]
    sheet = Image.new(
        "RGB",
        (_MARGIN + len(masks) * (PANEL + _MARGIN), size[1] + 3 * _MARGIN + _ROW * (len(shown) + 1) + 40),
        _PAPER,
    )
    for index, mask in enumerate(masks):
        left = _MARGIN + index * (PANEL + _MARGIN)
        view = _draw_view(image, mask > 0, size, ratio, points, labels, box)
        sheet.paste(view, (left + (PANEL - size[0]) // 2, _MARGIN))
        top = size[1] + 2 * _MARGIN
        title = f"Mask {index + 1}" + ("  (best)" if index == best else "")
        pen = ImageDraw.Draw(sheet)
        pen.text((left, top), title, _INK, ImageFont.load_default(20))
        share = f"{100 * float((mask > 0).mean()):.1f} % of the image"
        pen.text((left + _BAR_LEFT, top + 4), share, _PALE, ImageFont.load_default(15))
        for row, (words, values, is_gap) in enumerate(shown, start=1):
            _draw_bar(pen, (left, top + 6 + row * _ROW), words, float(values[index]), is_gap)
    pen = ImageDraw.Draw(sheet)
    for line, words in enumerate(_LEGEND[: 1 + (len(shown) > 2)]):
        pen.text((_MARGIN, sheet.height - 54 + 20 * line), words, _PALE, ImageFont.load_default(15))
    return np.asarray(sheet)


def _draw_view(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    size: tuple[int, int],
    ratio: float,
    points: Sequence[Sequence[float]],
    labels: Sequence[int],
    box: Sequence[float] | None,
) -> Image.Image:
    view = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    stencil = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    stencil = stencil.point([0] * 128 + [255] * 128)
    view.paste(Image.blend(view, Image.new("RGB", size, _MASK), 0.45), mask=stencil)
    if min(size) > 2:
        edge = np.asarray(stencil) > np.asarray(stencil.filter(ImageFilter.MinFilter(3)))
        view.paste((255, 255, 255), mask=Image.fromarray(edge.astype(np.uint8) * 255))
    pen = ImageDraw.Draw(view)
    if box is not None:
        pen.rectangle([round(corner * ratio) for corner in box], outline=(255, 220, 0), width=2)
    for (x, y), label in zip(points, labels, strict=True):
        centre, radius = (x * ratio, y * ratio), 6
        pen.circle(centre, radius, fill=_GOOD if label else _ALARM, outline=(255, 255, 255), width=2)
    return view


def _draw_bar(pen: ImageDraw.ImageDraw, corner: tuple[int, int], words: str, value: float, is_gap: bool) -> None:
    left, top = corner
    font = ImageFont.load_default(17)
    pen.text((left, top), words, _INK, font)
    start, end = left + _BAR_LEFT, left + _BAR_LEFT + _BAR_WIDTH
    pen.rectangle((start, top + 4, end, top + 16), fill=_TRACK)
    share = min(max(value / (_LARGEST_GAP if is_gap else 1.0), 0.0), 1.0)
    if round(share * _BAR_WIDTH) > 0:
        colour = _ALARM if is_gap else _GOOD
        pen.rectangle((start, top + 4, start + round(share * _BAR_WIDTH), top + 16), fill=colour)
    pen.text((end + 12, top), f"{round(float(value), 2) + 0.0:+.2f}" if is_gap else f"{value:.2f}", _INK, font)


def save_picture(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Write (h, w, 3) RGB as .png, .jpg or .webp, whole or not at all.

    Raises ImageError for another ending or when the file cannot be written.
    """
    picture_format = _SUFFIXES.get(path.suffix.lower())
    if picture_format is None:
        raise ImageError(f"a file ending in {', '.join(_SUFFIXES)}", str(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        Image.fromarray(picture).save(partial, picture_format)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImageError(f"to write {path}", (error.strerror or str(error)).lower()) from error
