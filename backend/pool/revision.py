"""Which predictions have to be written again so that an order that is served becomes another, and with which scores.

Label Studio orders by score alone, so a task whose neighbours changed keeps its score, and one that moved gets a score
between those of its new neighbours. As few tasks as possible are written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.store.records import ScoreRow

MOST_SHARE, MOST = 0.1, 2_000
"""Where more has changed, all is written under a new version: a changed task takes a request of its own."""
_LEAST_GAP = 1e-9


@dataclass(frozen=True)
class Revision:
    """All `rows` of the new order, first to be served first, with the scores that they will have, and those of them
    that have to be `written`."""

    rows: list[ScoreRow]
    written: list[ScoreRow]


def revision(
    before: Mapping[int, ScoreRow], rows: Sequence[ScoreRow], version: str, remade: Collection[int] = ()
) -> Revision | None:
    """How the order `before` (by task), served as `version`, becomes that of `rows`; None where all should be written.

    A task is written where it is new, was `remade`, shows something else, or stands elsewhere among the others.
    """
    most = min(MOST_SHARE * len(rows), MOST)
    same = [place for place, row in enumerate(rows) if row.task not in remade and _shows_the_same(before, row)]
    if len(rows) - len(same) > most:
        return None
    kept = [same[number] for number in increasing([before[rows[place].task].confidence for place in same])]
    while kept and kept[-1] != len(rows) - 1 and before[rows[kept[-1]].task].confidence >= 1.0:
        kept.pop()  # nothing fits behind it
    if len(rows) - len(kept) > most:
        return None
    scores: list[float] = []
    for place in [*kept, len(rows)]:
        low = scores[-1] if scores else 0.0
        high = before[rows[place].task].confidence if place < len(rows) else 1.0
        moved = place - len(scores)
        step = (high - low) / (moved + 1)
        if moved and step < _LEAST_GAP:
            return None
        scores += [low + step * (number + 1) for number in range(moved)]
        if place < len(rows):
            scores.append(high)
    found = [replace(row, confidence=score, version=version) for row, score in zip(rows, scores, strict=True)]
    stays = set(kept)
    return Revision(found, [row for place, row in enumerate(found) if place not in stays])


def _shows_the_same(before: Mapping[int, ScoreRow], row: ScoreRow) -> bool:
    old = before.get(row.task)
    return old is not None and (tuple(old.shown), list(old.labels)) == (tuple(row.shown), list(row.labels))


def increasing(values: Sequence[float]) -> list[int]:
    """Places of a longest strictly increasing part of `values`.

    >>> increasing([0.5, 0.1, 0.2, 0.9, 0.3])
    [1, 2, 4]
    """
    ends: list[float] = []
    places: list[int] = []
    previous = [-1] * len(values)
    for place, value in enumerate(values):
        length = bisect_left(ends, value)
        previous[place] = places[length - 1] if length else -1
        if length == len(ends):
            ends.append(value)
            places.append(place)
        else:
            ends[length], places[length] = value, place
    found: list[int] = []
    place = places[-1] if places else -1
    while place >= 0:
        found.append(place)
        place = previous[place]
    return found[::-1]
