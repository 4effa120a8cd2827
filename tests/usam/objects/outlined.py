"""Pictures of speckled ellipses on a speckled ground, with their masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

IMAGES, PER_IMAGE = 9, 4
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


def nothing_told(points: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A model without an opinion: masks that are nowhere."""
    return np.full((len(points), 4, 30, 30), -4, np.float32), np.full((len(points), 4), 0.5, np.float32)


class Knowing:
    """A model that gives the objects it knows, 120 pixels a side, for whatever points lie in them."""

    def __init__(self, masks: list[np.ndarray[Any, Any]]) -> None:
        self.masks, self.asked = masks, 0

    def __call__(self, points: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        self.asked += points.shape[0] * points.shape[1]
        x, y = points[:, 0].astype(int).T
        found = np.zeros((len(points), 120, 120), bool)
        for mask in self.masks:
            found |= mask[y, x][:, None, None] & mask
        logits = np.where(found, 6, -6).astype(np.float32)
        return np.repeat(logits[:, None], 4, 1), np.full((len(points), 4), 0.8, np.float32)
