"""Doubted labels that a person says are right: they leave the list of `backend.learning.review`, and come back once the
annotation changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

from backend.errors import RegionError
from backend.learning.review import REASONS, Review, ReviewedLabel, kept_review
from usam.masks import box_iou

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.store import Store
    from backend.store.right_labels import RightLabel

SAME_BOX = 0.5
"""IoU of two boxes from which they are of one object that nobody marked: proposals are made anew now and then."""
Box = Sequence[float]


def split(store: Store, project: int, review: Review) -> tuple[Review, Review]:
    """What of a list is still doubted, and what was said to be right."""
    said = _said(store, project)
    parts: tuple[list[ReviewedLabel], list[ReviewedLabel]] = [], []
    for line in review.lines:
        parts[bool(_said_of(line, said))].append(line)
    doubted, right = (replace(review, lines=tuple(lines)) for lines in parts)
    return doubted, right


def say_right(settings: Settings, store: Store, project: int, key: str, reason: str, who: str) -> list[ReviewedLabel]:
    """Note that the label `key` (`ReviewedLabel.key`) of the kept list is right, in what it was doubted for: `reason`
    of `REASONS`, empty for all. Returns its lines.

    Raises `RegionError` where the list does not have it.
    """
    lines = _lines_of(settings, store, project, key, reason)
    store.put_right_labels(project, [(line.annotation, line.place, line.reason) for line in lines], who)
    return lines


def doubt_again(settings: Settings, store: Store, project: int, key: str, reason: str) -> list[ReviewedLabel]:
    """Take that back. Returns its lines. Raises `RegionError` where the list does not have it."""
    lines = _lines_of(settings, store, project, key, reason)
    said = _said(store, project)
    found = [one for line in lines for one in _said_of(line, said)]
    store.drop_right_labels(project, [(one.annotation, one.place, one.reason) for one in found])
    return lines


def _lines_of(settings: Settings, store: Store, project: int, key: str, reason: str) -> list[ReviewedLabel]:
    if reason and reason not in REASONS.values():
        raise RegionError(f"a reason out of {', '.join(REASONS.values())}", repr(reason[:40]), "leave it out for all")
    review = kept_review(settings, store, project)
    lines = [line for line in review.lines if line.key == key] if review is not None else []
    lines = [line for line in lines if not reason or line.reason == reason]
    if not lines:
        raise RegionError(
            "a label of the list, as ANNOTATION/REGION",
            repr(key[:80]),
            f"look at the list again, it may have changed: usam-backend review --project {project}",
        )
    return lines


def _said(store: Store, project: int) -> dict[tuple[int, str], list[RightLabel]]:
    """What was said, by annotation and reason."""
    said: dict[tuple[int, str], list[RightLabel]] = {}
    for one in store.right_labels(project):
        said.setdefault((one.annotation, one.reason), []).append(one)
    return said


def _said_of(line: ReviewedLabel, said: Mapping[tuple[int, str], Sequence[RightLabel]]) -> list[RightLabel]:
    """What was said of a line."""
    found = said.get((line.annotation, line.reason), ())
    if line.region:
        return [one for one in found if one.place == line.place]
    return [
        one for one in found if one.place.startswith("@") and box_iou([_box(one.place)], [line.box])[0, 0] >= SAME_BOX
    ]


def _box(place: str) -> Box:
    """The box in a place, one of nothing where it cannot be read."""
    try:
        sides = [float(side) for side in place[1:].split(",")]
    except ValueError:
        sides = []
    return sides if len(sides) == 4 and all(map(isfinite, sides)) else (0.0, 0.0, 0.0, 0.0)
