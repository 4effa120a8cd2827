"""Islands and holes that are too small to be meant: what a decoder leaves at a mask's edge and in even surfaces.

Legend: H, W height and width in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

SMALLEST_SHARE = 0.005
"""Islands and holes below this share of the mask's area are specks."""

BoolMask = npt.NDArray[np.bool_]


def without_specks(mask: BoolMask, share: float = SMALLEST_SHARE) -> BoolMask:
    """(H, W) the mask without its specks. Its largest island always stays; what is outside the mask is one hole's
    surroundings and never filled where it touches the image's edge."""
    area = int(np.count_nonzero(mask))
    if area == 0 or share <= 0:
        return mask
    least = share * area
    kept = _large_parts(mask, least)
    outside = ~kept
    labels, sizes, edge = _parts(outside)
    small = sizes < least
    small[0] = False
    small[np.unique(edge)] = False
    filled: BoolMask = kept | small[labels]
    return filled


def _large_parts(mask: BoolMask, least: float) -> BoolMask:
    labels, sizes, _ = _parts(mask)
    keep = sizes >= least
    keep[0] = False
    if not keep.any():
        keep[1 + int(sizes[1:].argmax())] = True
    parts: BoolMask = keep[labels]
    return parts


def _parts(mask: BoolMask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Labels (H, W) of the connected parts, 0 where there is none, their sizes, and the labels on the image's edge."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.asarray(labels, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32), edge
