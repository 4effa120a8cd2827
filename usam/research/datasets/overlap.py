"""Pictures that two data sets share, so that none is trained on in one and judged on in the other.

ECSSD, for one, took pictures from BSDS500 and changed their size. Two pictures count as the same when small
gray copies of them are nearly proportional, which survives another size, JPEG and brightness, but no crop.

Legend: N, M pictures; S * S gray values of a small copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from usam.research.datasets.record import Record, UInt8Image

SIDE = 24
SAME = 0.97

Signature = npt.NDArray[np.float32]


def signature(image: UInt8Image) -> Signature:
    """(S * S,) float32 of length 1: the picture, small, gray and centred; zeros for an even picture."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return np.asarray(small / length if length > 1 else small * 0, np.float32)


def shared_pictures(
    first: Iterable[Record], second: Iterable[Record], same: float = SAME
) -> list[tuple[str, str, float]]:
    """(group in first, group in second, likeness 0..1) for each picture that is in both, likest first.

    A picture that several people labelled is looked at once. `same` is the likeness from which two pictures
    are one.
    """
    names_a, signatures_a = _signatures(first)
    names_b, signatures_b = _signatures(second)
    if not names_a or not names_b:
        return []
    likeness = signatures_a @ signatures_b.T
    found = [
        (names_a[row], names_b[column], float(likeness[row, column])) for row, column in np.argwhere(likeness >= same)
    ]
    return sorted(found, key=lambda pair: -pair[2])


def _signatures(records: Iterable[Record]) -> tuple[list[str], Signature]:
    seen: dict[str, tuple[str, Signature]] = {}
    for record in records:
        key = f"{record.dataset}/{record.image_id}"
        if key not in seen:
            seen[key] = (record.group, signature(record.read_image()))
    stacked = [values for _, values in seen.values()]
    return [group for group, _ in seen.values()], np.stack(stacked) if stacked else np.zeros((0, SIDE**2), np.float32)
