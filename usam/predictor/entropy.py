"""The entropy baselines of UncertainSAM: how undecided a mask is, from logits and no trained head.

Legend: M masks of one prompt (3); X sources of one kind (prompts, model sizes or augmentations); h, w height
and width of low-resolution logits (256, 256 for SAM 2); `...` any leading axes.

Every measure is the entropy of one probability map, in bits, 0 (certain) to 1 (a coin toss); higher = less
certain. They differ in what the map is a mean over. With h(p) = -p log2 p - (1 - p) log2 (1 - p), pixel by
pixel,

    H(p) = sum(p h(p)) / sum(p)

    H_Std    p = sigmoid(logits) of one mask
    H_A      p = sum over M of w_m sigmoid(logits_m), w the SamScores divided by their sum        (task)
    H_XP     p = mean over 8 single-point prompts                                               (prompt)
    H_Theta  p = mean over the four model sizes                                                  (model)
    H_T      p = mean over the image and its augmentations                                       (image)
    H_Y      p = mean over all sources of the p of H_A                                      (predictive)

Source: UncertainSAM (ICML 2025, arXiv 2505.05049), entropy baselines. The text leaves the strength of the
Gaussian noise open; ours is `NOISE_SIGMA`.

All functions take NumPy arrays or torch tensors and answer in kind, in float32, on the tensor's device.
"""

from __future__ import annotations

import io
import math
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from usam.errors import ImageError, MaskError

UInt8Image: TypeAlias = npt.NDArray[np.uint8]
Field = TypeVar("Field", npt.NDArray[np.float32], Tensor)

JPEG_QUALITIES = (10, 30)
NOISE_SIGMA = 25.0
"""Standard deviation of the Gaussian noise, in gray levels of 255."""
BLUR_SIDE = 5
"""Side in pixels of the Gaussian blur's kernel."""


def binary_entropy_map(p: Field) -> Field:
    """h(p) in bits for each probability of `p` (any shape, 0..1): 0 where certain, 1 at one half."""
    return _like(p, _bits(_tensor(p)))


def mask_entropy(p: Field) -> Field:
    """H(p) (...,) of probability maps `p` (..., h, w): entropy in bits weighted by the probability itself,
    0..1.

    0 for a map of zeros. Raises `MaskError` for fewer than two axes.
    """
    return _like(p, _mask_entropy(_tensor(p, axes=2)))


def h_std(logits: Field) -> Field:
    """H_Std (...,) of single masks' logits (..., h, w)."""
    return _like(logits, _mask_entropy(torch.sigmoid(_tensor(logits, axes=2))))


def h_a(logits: Field, sam_scores: Field) -> Field:
    """H_A (...,) of a prompt's masks (..., M, h, w), weighted by their SamScores (..., M), 0..1.

    Masks that all have a score of 0 weigh the same. Raises `MaskError` where scores and masks do not line up,
    or a score is negative.
    """
    return _like(logits, _mask_entropy(_weighted(_tensor(logits, axes=3), _tensor(sam_scores, axes=1))))


def h_xp(logits: Field, axis: int = -3) -> Field:
    """H_XP (...,) of one object's logits under several single-point prompts (..., X, h, w)."""
    return _like(logits, _mean_entropy(_tensor(logits, axes=3), axis))


def h_theta(logits: Field, axis: int = -3) -> Field:
    """H_Theta (...,) of one prompt's logits by several model sizes (..., X, h, w)."""
    return _like(logits, _mean_entropy(_tensor(logits, axes=3), axis))


def h_t(logits: Field, axis: int = -3) -> Field:
    """H_T (...,) of one prompt's logits on an image and its augmentations (..., X, h, w); see
    `augmentations`."""
    return _like(logits, _mean_entropy(_tensor(logits, axes=3), axis))


def h_y(logits: Field, sam_scores: Field) -> Field:
    """H_Y (...,) over everything: logits (..., X, M, h, w) with SamScores (..., X, M).

    X runs over whatever was varied, prompts, model sizes and augmentations side by side; each source's masks
    are weighted as in `h_a`, the sources equally. Raises `MaskError` as `h_a` does.
    """
    mixed = _weighted(_tensor(logits, axes=4), _tensor(sam_scores, axes=2))
    return _like(logits, _mask_entropy(mixed.mean(dim=-3)))


def augmentations(image: UInt8Image, rng: np.random.Generator) -> dict[str, UInt8Image]:
    """The variants of an image (H, W, 3) RGB uint8 that H_T looks at, by name, each of the same shape.

    JPEG at quality 10 and 30, Gaussian noise, Gaussian blur over 5 x 5 pixels. Raises `ImageError` for another
    shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError("an RGB image (H, W, 3) of uint8", f"{image.shape} of {image.dtype}")
    noise = rng.normal(0.0, NOISE_SIGMA, image.shape)
    return {
        **{f"jpeg_{quality}": _jpeg(image, quality) for quality in JPEG_QUALITIES},
        "noise": np.clip(np.rint(image + noise), 0, 255).astype(np.uint8),
        "blur": np.asarray(cv2.GaussianBlur(image, (BLUR_SIDE, BLUR_SIDE), 0), np.uint8),
    }


def _tensor(field: npt.NDArray[np.float32] | Tensor, axes: int = 0) -> Tensor:
    values = torch.as_tensor(field).float()
    if values.ndim < axes:
        raise MaskError(f"at least {axes} axes", f"shape {tuple(values.shape)}", "add the missing leading axes")
    return values


def _like(asked: Field, answer: Tensor) -> Field:
    return answer if isinstance(asked, Tensor) else answer.numpy()


def _bits(p: Tensor) -> Tensor:
    """h(p); rounding may have left a mean a little above 1, where it is not defined."""
    sure = p.clamp(0, 1)
    bits: Tensor = (torch.special.entr(sure) + torch.special.entr(1 - sure)) / math.log(2)
    return bits


def _mask_entropy(p: Tensor) -> Tensor:
    weight = p.sum(dim=(-2, -1))
    total = (p * _bits(p)).sum(dim=(-2, -1))
    return torch.where(weight > 0, total / weight.clamp_min(torch.finfo(p.dtype).tiny), torch.zeros_like(total))


def _mean_entropy(logits: Tensor, axis: int) -> Tensor:
    return _mask_entropy(torch.sigmoid(logits).mean(dim=axis))


def _weighted(logits: Tensor, sam_scores: Tensor) -> Tensor:
    """Probability maps (..., h, w): the mean of sigmoid(logits) (..., M, h, w) with weights `sam_scores`
    (..., M)."""
    if sam_scores.shape != logits.shape[:-2]:
        raise MaskError(f"a SamScore for each mask, {tuple(logits.shape[:-2])}", f"shape {tuple(sam_scores.shape)}")
    if not bool((sam_scores >= 0).all()):
        raise MaskError("SamScores of at least 0", "a negative one or NaN", "clip them first")
    total = sam_scores.sum(dim=-1, keepdim=True)
    equal = torch.full_like(sam_scores, 1 / sam_scores.shape[-1])
    weights = torch.where(total > 0, sam_scores / total.clamp_min(1e-12), equal)
    return torch.einsum("...m,...mhw->...hw", weights.to(logits.device), torch.sigmoid(logits))


def _jpeg(image: UInt8Image, quality: int) -> UInt8Image:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))
