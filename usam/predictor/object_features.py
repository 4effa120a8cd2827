"""What an object looks like: maps of an ImageNet trunk averaged under the mask, and the mask's place and shape.

Shapes: K objects, C channels of a stage, g side of a stage's map, F = all stages' channels, h, w masks of any size.

The maps are made when an image is encoded (`PatchedImagePredictor.keep_stages`, `usam.predictor.looks_trunk`), so a
feature costs one small matrix product a map. An image is squeezed into a square, as SAM 2 does, and a mask is averaged
over cells of that square.

    predictor.keep_stages = True
    predictor.set_image(image)
    found = propose_masks(predictor, points)
    features = pool_stages(predictor.embedding().stages, found.low_res > 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import ImageError, MaskError

FEATURES_VERSION = "object-features-2"
"""Raised when the same image and mask give other features."""

SHAPE_NAMES = (
    "x", "y", "size", "width", "height", "fill", "at_left", "at_top", "at_right", "at_bottom", "stability", "samscore",
)  # fmt: skip
PLACE_NUMBERS = 10
"""The first of `SHAPE_NAMES` tell place and size, and are the same for a person's region as for a proposal."""
STABILITY_OFFSET = 1.0
"""Logits by which a mask's threshold is raised and lowered to see whether the mask changes, as in SAM's own grid."""

Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.floating[Any]]


def features_version(checkpoint: str, stages: Sequence[Tensor]) -> str:
    """What must be equal for two features to be comparable, such as 'object-features-2/nano-m/112x28+192x14'."""
    return f"{FEATURES_VERSION}/{checkpoint}/" + "+".join(f"{stage.shape[0]}x{stage.shape[-1]}" for stage in stages)


def pool_stages(stages: Sequence[Tensor], masks: npt.NDArray[np.bool_]) -> Half:
    """Mean of each stage's channels under each mask.

    Parameters: stages of one image (C, g, g); masks (K, h, w), which cover the whole image at any
    size (the low-resolution ones are the cheapest).

    Returns (K, F) float16. Raises `ImageError` where no stages were kept, `MaskError` for an empty mask.
    """
    if not len(stages):
        raise ImageError("an image encoded with its stages", "none", "set keep_stages before set_image")
    if masks.ndim != 3:
        raise MaskError("masks (K, h, w)", f"shape {masks.shape}")
    weights: dict[int, Tensor] = {}
    parts = []
    for stage in stages:
        side = stage.shape[-1]
        if side not in weights:
            weights[side] = torch.from_numpy(cell_shares(masks, side)).to(stage.device)
        parts.append(weights[side] @ stage.flatten(1).float().T)
    pooled = torch.cat(parts, dim=1) if len(masks) else torch.zeros((0, sum(len(stage) for stage in stages)))
    result: Half = pooled.cpu().numpy().astype(np.float16)
    return result


def cell_shares(masks: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float32]:
    """The share of each mask (K, h, w) in each cell of a grid, (K, side * side), a mask's shares adding up to 1.

    Raises `MaskError` for an empty mask.
    """
    shares = np.empty((len(masks), side * side), np.float32)
    for index, mask in enumerate(masks):
        cells = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA).ravel()
        total = float(cells.sum())
        if total <= 0:
            raise MaskError("masks with at least one pixel", f"mask {index} is empty", "leave it out")
        shares[index] = cells / total
    return shares


def describe_shapes(logits: Floats, samscore: Floats) -> npt.NDArray[np.float32]:
    """Place, size and stability of masks: (K, 12), each in [0, 1], named by `SHAPE_NAMES`.

    Parameters: logits (K, h, w) over the whole image, above 0 = object; samscore (K,) SAM's own estimate of the IoU.

    Centre and box are shares of the sides; `size` is the root of the area's share; `fill` the share of its box that the
    mask covers; `at_...` the share of that side of the image which the mask touches; `stability` the IoU of the mask at
    a higher and a lower threshold, higher = sharper edge. An empty mask has zeros.
    """
    rows = np.zeros((len(logits), len(SHAPE_NAMES)), np.float32)
    for index, (values, score) in enumerate(zip(logits, samscore, strict=True)):
        mask = values > 0
        height, width = mask.shape
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(ys):
            continue
        box_h, box_w = ys[-1] + 1 - ys[0], xs[-1] + 1 - xs[0]
        pixels = int(mask.sum())
        narrow, wide = (values > STABILITY_OFFSET).sum(), (values > -STABILITY_OFFSET).sum()
        rows[index] = (
            (xs[0] + box_w / 2) / width,
            (ys[0] + box_h / 2) / height,
            np.sqrt(pixels / mask.size),
            box_w / width,
            box_h / height,
            pixels / (box_h * box_w),
            mask[:, 0].mean(),
            mask[0].mean(),
            mask[:, -1].mean(),
            mask[-1].mean(),
            narrow / wide,
            score,
        )
    return rows
