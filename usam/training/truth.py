"""IoU of low-resolution logits with the truth at the image's own size, without making masks of that size.

Legend: M masks; H, W image height and width in pixels; h, w those of the logits.

SAM 2 enlarges logits bilinearly (half-pixel centres) and calls what is above 0 object. Around a mask, logits
are at most 0, and so is everything interpolated between them: only the part of the image that a mask can reach
has to be interpolated.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from usam.masks.overlap import BoolMask

Float32 = npt.NDArray[np.float32]

BYTES_ON_DEVICE = 2 << 30
WHOLE_IMAGE_FROM = 0.2
"""Share of the image from which one pass over all of it is faster than four over a part."""


class Truth:
    """A (H, W) mask, its area in pixels, and its IoU with predictions."""

    def __init__(self, mask: BoolMask) -> None:
        self.mask = mask
        self.pixels = int(np.count_nonzero(mask))

    @property
    def area(self) -> float:
        """Share of the image, 0..1."""
        return self.pixels / self.mask.size

    def ious(self, logits: Float32) -> Float32:
        """(M,) IoU of the masks that (M, h, w) logits become at the image's size; 0 for an empty one."""
        return np.array([self._iou(each) for each in logits], np.float32)

    def _iou(self, logits: Float32) -> float:
        predicted, rows, columns = foreground(logits, self.mask.shape)
        area = int(np.count_nonzero(predicted))
        if area == 0:
            return 0.0
        common = int(np.count_nonzero(predicted & self.mask[rows, columns]))
        return common / (area + self.pixels - common)


def foreground(logits: Float32, image_hw: tuple[int, ...]) -> tuple[BoolMask, slice, slice]:
    """Where (h, w) logits, enlarged to (H, W), are above 0: a part of the image, and its rows and columns."""
    positive = logits > 0
    with_rows = np.flatnonzero(positive.any(axis=1))
    if with_rows.size == 0:
        return np.zeros((0, 0), np.bool_), slice(0, 0), slice(0, 0)
    with_columns = np.flatnonzero(positive[with_rows[0] : with_rows[-1] + 1].any(axis=0))
    height, width = image_hw
    rows = _reach(int(with_rows[0]), int(with_rows[-1]), logits.shape[0], height)
    columns = _reach(int(with_columns[0]), int(with_columns[-1]), logits.shape[1], width)
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    if covered > WHOLE_IMAGE_FROM * height * width:
        enlarged = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(enlarged[rows, columns] > 0), rows, columns
    upper, lower, downward = _neighbours(rows, logits.shape[0], height)
    left, right, rightward = _neighbours(columns, logits.shape[1], width)
    first, last = int(left[0]), int(right[-1]) + 1
    part = logits[:, first:last]
    lines = part[upper] + (part[lower] - part[upper]) * downward[:, None]
    left, right = left - first, right - first
    starts = lines.take(left, axis=1)
    enlarged = starts + (lines.take(right, axis=1) - starts) * rightward
    return np.asarray(enlarged > 0), rows, columns


def _reach(first: int, last: int, source: int, target: int) -> slice:
    """The pixels of a side of `target` that source samples `first` to `last` have a part in."""
    scale = target / source
    start = int(np.floor((first - 0.5) * scale - 0.5))
    stop = int(np.ceil((last + 1.5) * scale - 0.5)) + 1
    return slice(max(start, 0), min(stop, target))


def _neighbours(pixels: slice, source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32]:
    """For each pixel: the source samples before and after it, and how far it is towards the second, 0..1."""
    place = (np.arange(pixels.start, pixels.stop) + 0.5) * (source / target) - 0.5
    place = place.clip(0, source - 1)
    before = np.floor(place).astype(np.intp)
    after = np.minimum(before + 1, source - 1)
    return before, after, (place - before).astype(np.float32)


def ious_on_device(logits: Tensor, truths: Tensor) -> Float32:
    """(P, M) IoU of (P, M, h, w) logits with (P, H, W) boolean masks, counted on the device that both are on.

    The masks are enlarged in parts, so that at most about 2 GB are taken at a time.
    """
    import torch
    import torch.nn.functional as F

    prompts, masks = logits.shape[:2]
    height, width = truths.shape[-2:]
    step = max(1, BYTES_ON_DEVICE // (masks * height * width * 8))
    found = []
    with torch.inference_mode():
        for start in range(0, prompts, step):
            part = slice(start, start + step)
            enlarged = F.interpolate(logits[part], (height, width), mode="bilinear", align_corners=False)
            predicted = enlarged > 0
            truth = truths[part, None]
            common = (predicted & truth).flatten(2).sum(-1)
            union = (predicted | truth).flatten(2).sum(-1)
            found.append((common / union.clamp(min=1)).float().cpu())
        return torch.cat(found).numpy()
