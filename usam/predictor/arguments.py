"""The prompt arguments of a predictor's calls, checked against each other and the image.

Shapes: P prompts, K points of a prompt, H, W image in pixels, h, w low-resolution masks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import PromptError
from usam.prompts import FloatArray, IntArray, validate_box, validate_mask_input, validate_points

PADDING = -1


class Prepared(NamedTuple):
    """Prompts as SAM 2 prepares them, on the model's device; coordinates in pixels of its input."""

    mask_input: Tensor | None
    coords: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None

    def take(self, part: slice) -> Prepared:
        """Some of the P prompts."""
        return Prepared(*(None if values is None else values[part] for values in self))


def check_prompts(
    points: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    box: npt.ArrayLike | None,
    mask_input: npt.ArrayLike | None,
    image_hw: tuple[int, int],
    low_res_hw: tuple[int, int],
) -> tuple[FloatArray | None, IntArray | None, FloatArray | None, FloatArray | None]:
    """The arguments as arrays: points (K, 2) or (P, K, 2), labels, box (4,) or (P, 4), mask (1, h, w) or (P,
    1, h, w).

    Points may be padded: where the label is -1 the coordinates do not matter. Raises PromptError when nothing
    is given, for points without labels or the reverse, for different numbers of prompts, and for all that
    `usam.prompts` refuses: wrong shapes, NaN, labels, places outside the image, masks of another size.
    """
    if (points is None) != (labels is None):
        missing = "labels" if labels is None else "points"
        raise PromptError("points together with their labels", f"no {missing}", "give both")
    if points is None and box is None and mask_input is None:
        raise PromptError("a point, a box or a mask_input", "an empty prompt", "click the object or draw a box")
    counts: dict[str, int] = {}
    xy, marks, boxes, logits = None, None, None, None
    if points is not None:
        xy, marks = _checked_points(_array(points), _array(labels), image_hw)
        counts["points"] = len(xy) if xy.ndim == 3 else 1
    if box is not None:
        boxes = validate_box(_array(box), image_hw)
        counts["boxes"] = len(boxes) if boxes.ndim == 2 else 1
    if mask_input is not None:
        logits = validate_mask_input(_array(mask_input), low_res_hw)
        logits = logits[None] if logits.ndim == 2 else logits
        counts["mask inputs"] = len(logits) if logits.ndim == 4 else 1
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        raise PromptError("points, boxes and mask inputs for the same prompts", said, "give one of each per prompt")
    return xy, marks, boxes, logits


def _checked_points(points: Any, labels: Any, image_hw: tuple[int, int]) -> tuple[FloatArray, IntArray]:
    padded = np.equal(labels, PADDING)
    if np.shape(labels) == np.shape(points)[:-1] and padded.any() and not padded.all():
        inside, object_ = np.where(padded[..., None], 0, points), np.where(padded, 1, labels)
        xy, marks = validate_points(inside, object_, image_hw)
        return xy, np.where(padded, PADDING, marks).astype(np.int32)
    return validate_points(points, labels, image_hw)


def _array(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
