"""Masks and logits at another size.

Legend: H, W target height and width in pixels; h, w those of the source. Pixel centres are at half
coordinates in both (torch's `align_corners=False`).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import MaskError
from usam.masks.overlap import BoolMask, FloatArray, as_mask


def resize_logits(logits: npt.ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Logits (..., h, w) interpolated bilinearly to (..., H, W) float32; foreground where above 0.

    The same interpolation as SAM 2's own when it enlarges. Raises `MaskError` for fewer than two axes or a
    size of 0.
    """
    source = np.asarray(logits, np.float32)
    height, width = _checked(image_hw)
    if source.ndim < 2 or 0 in source.shape[-2:]:
        raise MaskError("logits (..., h, w) of at least 1 x 1", f"shape {source.shape}")
    planes = source.reshape(-1, *source.shape[-2:])
    resized = np.empty((len(planes), height, width), np.float32)
    for plane, target in zip(planes, resized, strict=True):
        cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*source.shape[:-2], height, width)


def resize_mask(mask: npt.ArrayLike, image_hw: tuple[int, int]) -> BoolMask:
    """Mask (h, w) as (H, W) bool: the nearest pixel when enlarging, at least half covered when shrinking both
    sides.

    Raises `MaskError` for a malformed mask or a size of 0.
    """
    source = as_mask(mask)
    height, width = _checked(image_hw)
    if source.shape == (height, width):
        return source.copy()
    if height <= source.shape[0] and width <= source.shape[1]:
        covered = cv2.resize(source.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(covered.reshape(height, width) >= 0.5)
    nearest = cv2.resize(source.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(nearest.reshape(height, width) != 0)


def _checked(image_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = image_hw
    if height < 1 or width < 1:
        raise MaskError("a target size (H, W) of at least 1 x 1", f"{image_hw}")
    return int(height), int(width)
