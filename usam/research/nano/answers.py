"""What else a click may mean: an object together with one that it touches, a part of it, or what it is a part of.

Legend: N masks of one picture, m the side of a mask.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from usam.masks import iou
from usam.research.nano.scenes import FloatArray, Scene

LEAST_CONTACT = 3
"""Mask pixels in which two objects must touch or overlap."""
INSIDE = 0.85
"""Share of an object that must lie in another for it to be a part."""
SAME = 0.9
"""From this IoU on, two answers are one."""


def other_answers(scene: Scene, index: int, point: npt.NDArray[np.floating]) -> list[FloatArray]:
    """Further masks (m, m) that a click at `point` (x, y; pixels of the picture) on one object of `scene` may mean.

    Parts of the object that hold the click, and unions of the object with another of the same picture that it touches
    or overlaps: a whole with its part is the whole.
    """
    solid = scene.masks > 0.5
    ours = solid[index]
    m = ours.shape[0]
    x, y = (int(np.clip((value + 0.5) / 4, 0, m - 1)) for value in point)
    reach = cv2.dilate(ours.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    found = []
    for other, theirs in enumerate(solid):
        if other == index or not theirs.any():
            continue
        shared = int((theirs & ours).sum())
        if shared >= INSIDE * int(theirs.sum()):
            answer = scene.masks[other] if theirs[y, x] else None
        elif int((theirs & reach).sum()) >= LEAST_CONTACT:
            answer = np.maximum(scene.masks[index], scene.masks[other])
        else:
            answer = None
        if answer is not None and iou(answer > 0.5, ours) < SAME:
            found.append(answer)
    return found


def further_target(scene: Scene, index: int, point: npt.NDArray[np.floating], rng: np.random.Generator) -> FloatArray:
    """(m, m) one of `other_answers`, drawn at random, -1 where nothing is known; -1 throughout where there is none."""
    answers = other_answers(scene, index, point)
    if not answers:
        return np.full_like(scene.masks[index], -1)
    return Scene(scene.image, answers[int(rng.integers(len(answers)))][None], scene.ignored).target(0)
