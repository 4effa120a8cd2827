"""Pictures of speckled ellipses on a speckled ground, with their masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

IMAGES, PER_IMAGE = 6, 4
Picture = tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]


def picture(seed: int) -> Picture:
    """An image (120, 120, 3) and the masks of its four objects."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((120, 120), np.uint8)
    for k in range(PER_IMAGE):
        centre = [int(30 + 60 * part + rng.integers(-4, 5)) for part in (k % 2, k // 2)]
        axes = rng.integers(12, 18, 2).tolist()
        cv2.ellipse(labels, centre, axes, int(rng.integers(180)), 0, 360, k + 1, -1)
    colours = rng.integers(20, 100, (1 + PER_IMAGE, 3)) + np.array([[0], *[[90]] * PER_IMAGE])
    image = colours[labels] + rng.normal(0, 12, (120, 120, 3))
    return np.clip(image, 0, 255).astype(np.uint8), [labels == k + 1 for k in range(PER_IMAGE)]


def moved(mask: np.ndarray[Any, Any], x: int, y: int) -> np.ndarray[Any, Any]:
    """The mask so many pixels to the right and down."""
    return np.asarray(np.roll(mask, (y, x), (0, 1)))


def halved(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Its left half."""
    columns = np.flatnonzero(mask.any(0))
    kept = mask.copy()
    kept[:, (columns[0] + columns[-1]) // 2 :] = False
    return kept
