"""Islands and holes that are too small to be meant: what a decoder leaves at a mask's edge and in even surfaces.

Legend: H, W height and width in pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SMALLEST_SHARE = 0.005
"""Islands and holes below this share of the mask's area are specks."""

MANY = 64
"""Specks from which on it is quicker to look at all pixels than at each speck."""

PLAIN = 8
"""Changes along a row, on average, up to which outlines are looked at first."""

MOST = 256
"""Enclosed parts up to which each is looked at by its outline."""

BoolMask = npt.NDArray[np.bool_]
Box = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
IntArray = npt.NDArray[Any]


def without_specks(mask: BoolMask, share: float = SMALLEST_SHARE) -> BoolMask:
    """(H, W) the mask without its specks. Its largest island always stays; what is outside the mask is one hole's
    surroundings and never filled where it touches the image's edge.

    Looks at the mask's bounding box alone, with a pixel around it: gaps that reach beyond it touch the image's edge.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width or share <= 0:
        return mask
    rows, columns = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    box = np.ascontiguousarray(mask[rows, columns], np.uint8)
    least = share * int(np.count_nonzero(box))
    plain = _is_plain(box)
    dropped = _drop_along_outlines(box, least) if plain else None
    changed = _drop_islands(box, least) if dropped is None else dropped
    filled = _fill_along_outlines(box, least) if plain else None
    changed |= _fill_holes(box, least) if filled is None else filled
    if not changed:
        return mask
    clean = mask.copy()
    clean[rows, columns] = box.view(bool)
    return clean


def one_object(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """(K, h, w) logits of masks with their largest island alone: others become background, as surely as they were
    foreground. For masks of one click each, where they are things that look alike more often than the rest of what
    stands behind another; more clicks may well mean several islands.

    >>> two = np.full((1, 4, 8), -1.0); two[0, :, :4] = two[0, 0, 6] = 2.0
    >>> one_object(two)[0, 0].tolist()
    [2.0, 2.0, 2.0, 2.0, -1.0, -1.0, -2.0, -1.0]
    """
    clean = logits.copy()
    for one in clean:
        count, islands, stats, _ = cv2.connectedComponentsWithStats((one > 0).view(np.uint8), connectivity=8)
        if count > 2:
            areas = stats[1:, cv2.CC_STAT_AREA]
            small = np.concatenate([[False], areas < areas.max()])[islands]
            one[small] *= -1
    return clean


def _is_plain(box: Box) -> bool:
    """Whether so few rows have more than one stretch that following outlines is quick."""
    rows = box[:: max(len(box) // 128, 1)]
    return int(np.count_nonzero(rows[:, 1:] != rows[:, :-1])) <= PLAIN * len(rows)


def _small(box: Box, least: float) -> tuple[list[IntArray], BoolMask] | None:
    """The outlines of the enclosed gaps, on the pixels around each, and which gaps have fewer than `least` pixels; None
    where outlines do not tell. Following outlines is far quicker than labelling all pixels."""
    outlines, hierarchy = cv2.findContours(box, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    inner = np.flatnonzero(np.asarray(hierarchy)[0, :, 3] >= 0) if len(outlines) else np.zeros(0, np.int64)
    if len(inner) > MOST:
        return None
    found = [np.asarray(outlines[number], np.int32) for number in inner]
    places = np.array([cv2.boundingRect(outline) for outline in found], np.int64).reshape(-1, 4)
    most = (places[:, 2] - 2) * (places[:, 3] - 2)
    small = most < least
    for number in np.flatnonzero(~small):
        left, top, width, height = (int(value) for value in places[number])
        inside = np.zeros((height, width), np.uint8)
        cv2.drawContours(inside, [found[number]], 0, 1, cv2.FILLED, offset=(-left, -top))
        pixels = np.count_nonzero(inside > box[top : top + height, left : left + width])
        within = (places[:, :2] > (left, top)).all(1) & (
            places[:, :2] + places[:, 2:] < (left + width, top + height)
        ).all(1)
        if pixels < least:
            small[number] = True
        elif pixels - most[within].sum() < least:
            return None
    return found, small


def _drop_along_outlines(box: Box, least: float) -> bool | None:
    """As `_drop_islands`, where outlines tell which islands are small; None where they do not. Islands are what the
    gaps around enclose."""
    around = np.asarray(cv2.copyMakeBorder(1 - box, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1), np.uint8)
    found = _small(around, least)
    if found is None or found[1].all():
        return None
    if not found[1].any():
        return False
    _fill(around, *found)
    box[:] = 1 - around[1:-1, 1:-1]
    return True


def _fill_along_outlines(box: Box, least: float) -> bool | None:
    """As `_fill_holes`, where outlines tell which holes are small; None where they do not."""
    found = _small(box, least)
    if found is None:
        return None
    _fill(box, *found)
    return bool(found[1].any())


def _fill(box: Box, outlines: list[IntArray], chosen: BoolMask) -> None:
    """Fill what these outlines enclose, and what lies within that."""
    for number in np.flatnonzero(chosen):
        cv2.drawContours(box, [outlines[number]], 0, 1, cv2.FILLED)


def _drop_islands(box: Box, least: float) -> bool:
    """Clear the islands smaller than `least` pixels in place, but never all of them; whether there were any."""
    labels, stats = _parts(box)
    small = stats[:, cv2.CC_STAT_AREA] < least
    small[0] = False
    if small[1:].all():
        small[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())] = False
    return _write(box, labels, stats, small, 0)


def _fill_holes(box: Box, least: float) -> bool:
    """Fill the gaps smaller than `least` pixels that do not touch the box's edge, in place; whether there were any."""
    labels, stats = _parts(1 - box)
    small = stats[:, cv2.CC_STAT_AREA] < least
    small[0] = False
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    return _write(box, labels, stats, small, 1)


def _write(box: Box, labels: Labels, stats: Labels, chosen: BoolMask, value: int) -> bool:
    """Give the pixels of the chosen parts a value; whether there are any. A few are written one by one, each in its
    own bounding box; many in one go."""
    numbers = np.flatnonzero(chosen)
    if len(numbers) > MANY:
        box[chosen[labels]] = value
    else:
        for number in numbers:
            left, top, width, height = stats[number, :4]
            place = slice(top, top + height), slice(left, left + width)
            box[place][labels[place] == number] = value
    return bool(len(numbers))


def _parts(box: Box) -> tuple[Labels, Labels]:
    """Labels (h, w) of the connected parts, 0 where there is none, and the bounding box and size of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(box, connectivity=4)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)
