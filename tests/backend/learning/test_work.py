"""The work that masks left to people: what they kept, threw away, named anew, drew better and added."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from backend.inference.shown import ShownObjects
from backend.label_studio.config import parse_config
from backend.label_studio.records import Annotation
from backend.learning.examples import MarkedObject
from backend.learning.work import count_changes, saving, summarize_work
from backend.pool.proposals import ScoredObjects
from backend.store.records import WorkRow
from tests.factories import kept_objects, label_config

HW = (64, 64)
CONTROLS = parse_config(label_config("cat", "dog"))


def block(y: int, x: int, height: int = 12, width: int = 12) -> np.ndarray[Any, Any]:
    mask = np.zeros(HW, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def shown(*masks: np.ndarray[Any, Any], labels: list[str | None]) -> ScoredObjects:
    count = len(masks)
    nothing = np.full(count, np.nan)
    rows = ShownObjects(np.arange(count), nothing, [None] * count, nothing)
    return ScoredObjects(kept_objects(*masks, labels=labels), np.full(count, 0.9, np.float32), {}, rows)


def marked(mask: np.ndarray[Any, Any], label: str = "cat", *, box_only: bool = False) -> MarkedObject:
    return MarkedObject("r", label, mask, box_only)


def counted(scored: ScoredObjects, *regions: MarkedObject) -> tuple[int, ...]:
    row = count_changes(Annotation(1, 2, "t", [], lead_s=8.0), regions, scored, CONTROLS, "nano-s+0123456789ab.4")
    assert (row.annotation, row.task, row.lead_s) == (1, 2, 8.0)
    return row.kept, row.deleted, row.relabelled, row.corrected, row.added


def test_each_kind_of_change_is_counted_once() -> None:
    scored = shown(block(2, 2), block(2, 30), block(30, 2), block(30, 30), labels=["cat", "cat", "cat", "cat"])
    kept, relabelled = marked(block(2, 2)), marked(block(2, 30), "dog")
    corrected, added = marked(block(30, 2, 12, 9)), marked(block(48, 48))
    assert counted(scored, kept, relabelled, corrected, added) == (1, 1, 1, 1, 1)


def test_a_label_given_where_none_was_shown_is_a_relabelling() -> None:
    assert counted(shown(block(2, 2), labels=[None]), marked(block(2, 2))) == (0, 0, 1, 0, 0)


def test_nothing_shown_and_nothing_marked_is_no_work() -> None:
    assert counted(shown(labels=[])) == (0, 0, 0, 0, 0)
    assert counted(shown(labels=[]), marked(block(2, 2))) == (0, 0, 0, 0, 1)


def test_a_box_is_compared_with_the_box_of_a_mask() -> None:
    ragged = block(2, 2)
    ragged[8:, 8:] = False
    assert counted(shown(ragged, labels=["cat"]), marked(block(2, 2), box_only=True))[0] == 1


def test_work_is_told_by_version_the_present_one_last() -> None:
    def row(number: int, version: str, at: float, lead: float = 9.0) -> WorkRow:
        return WorkRow(number, number, version, 7, 1, 1, 1, 2, lead_s=lead, at=at)

    rows = [
        row(1, "nano-s+aaaaaaaaaaaa.4", 1.0),
        row(2, "nano-s+bbbbbbbbbbbb.9", 5.0),
        row(3, "nano-s+aaaaaaaaaaaa.6", 2.0),
    ]
    first, second = summarize_work(rows)
    assert (first.version, first.tasks, first.work.kept) == ("nano-s+aaaaaaaaaaaa", 2, 14)
    assert second.version == "nano-s+bbbbbbbbbbbb"
    assert first.line == (
        "of 100 objects shown 70 were kept as they were, 10 relabelled, 10 corrected, 10 deleted; "
        "4 of 22 wanted objects had to be added (2 tasks); 9 s a task (median)"
    )
    assert second.facts()["kept"] == 7
    (silent,) = summarize_work([row(1, "v.1", 1.0, float("nan"))])
    assert silent.facts()["lead_s"] is None
    (blank,) = summarize_work([WorkRow(1, 1, "v.1", 0, 0, 0, 0, 3, lead_s=float("nan"), at=1.0)])
    assert blank.line == "nothing was shown on 1 tasks; people marked 3 objects"
    assert summarize_work([]) == []


@pytest.mark.parametrize("version", ["nano-s+no-heads.12-1", "nano-s+no-heads.12"])
def test_the_number_of_a_ranking_is_no_version(version: str) -> None:
    (one,) = summarize_work([WorkRow(1, 1, version, 1, 0, 0, 0, 0, lead_s=1.0, at=1.0)])
    assert one.version == "nano-s+no-heads"


def timed(number: int, seconds: float, *, control: bool, annotator: int = 1) -> WorkRow:
    row = WorkRow(number, number, "nano-s+no-heads.1", 0 if control else 4, 0, 0, 0, 4 if control else 0, seconds, 1.0)
    row.annotator, row.control = annotator, control
    return row


def test_on_a_control_nothing_counts_as_shown() -> None:
    scored = shown(block(2, 2), labels=["cat"])
    row = count_changes(
        Annotation(1, 2, "t", [], annotator=7), [marked(block(2, 2))], scored, CONTROLS, "v.1", control=True
    )
    assert (row.kept, row.deleted, row.added, row.annotator, row.control) == (0, 0, 1, 7, True)
    (summary,) = summarize_work([row])
    assert summary.version == "nothing shown"
    assert summary.line.startswith("nothing was shown on 1 tasks")


def test_what_masks_save_is_told_within_each_annotator() -> None:
    rng = np.random.default_rng(0)
    rows = [timed(n, 20 + rng.normal(), control=False) for n in range(30)]
    rows += [timed(n, 32 + rng.normal(), control=True) for n in range(30, 40)]
    rows += [timed(n, 200, control=False, annotator=2) for n in range(40, 50)]  # slow, and never without masks
    found = saving(rows)
    assert found is not None
    assert found.seconds == pytest.approx(3.0, abs=0.3)
    assert 2 < found.low < found.seconds < found.high < 4
    assert (found.shown, found.control) == (30, 10)
    assert found.line.startswith("masks save 3.")
    assert saving(rows[:30]) is None
    assert saving([timed(1, math.nan, control=True), timed(2, 3.0, control=False)]) is None
