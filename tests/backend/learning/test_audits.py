"""Audits judge what is accepted elsewhere: the proposals as they were made, against what people drew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.errors import RegionError
from backend.inference.shown import ShownObjects
from backend.label_studio.config import parse_config
from backend.label_studio.records import Annotation
from backend.learning.audits import ScoredTask, audit_candidates, final_label, pool_candidates, true_ious
from backend.pool.proposals import ScoredObjects
from backend.store.pseudo_label_store import with_provenance
from tests.factories import kept_objects
from usam.masks import encode_rle

HW = (40, 50)
BRUSH = parse_config(
    '<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img"><Label value="thing"/>'
    '</BrushLabels><Number name="task_gap" toName="img" perRegion="true"/></View>'
)
PETS = parse_config(
    '<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img"><Label value="cat"/>'
    '<Label value="dog"/></BrushLabels></View>'
)
BOXES = parse_config(
    '<View><Image name="img" value="$image"/><RectangleLabels name="brush" toName="img"><Label value="thing"/>'
    "</RectangleLabels></View>"
)


def block(top: int, left: int, height: int, width: int) -> np.ndarray[Any, Any]:
    mask = np.zeros(HW, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def brush(mask: np.ndarray[Any, Any], name: str = "drawn", label: str = "thing") -> dict[str, Any]:
    return {
        "id": name,
        "from_name": "brush",
        "to_name": "img",
        "type": "brushlabels",
        "original_width": HW[1],
        "original_height": HW[0],
        "value": {"format": "rle", "rle": encode_rle(mask), "brushlabels": [label]},
    }


def rectangle(**value: float) -> dict[str, Any]:
    size = {"original_width": HW[1], "original_height": HW[0]}
    return {**size, "from_name": "brush", "type": "rectanglelabels", "value": {"rotation": 0, **value}}


def scored(
    task: int, *masks: np.ndarray[Any, Any], gap: float | None = 0.02, labels: list[str | None] | None = None
) -> ScoredTask:
    """A task with these proposals, of predicted IoU 0.9, 0.8, ..."""
    count = len(masks)
    iou, nothing = 0.9 - 0.1 * np.arange(count, dtype=np.float32), np.full(count, np.nan)
    columns = {"samscore": iou} | ({} if gap is None else {"task_gap": np.full(count, gap)})
    shown = ShownObjects(np.arange(count), nothing, [None] * count, nothing)
    return ScoredTask(task, ScoredObjects(kept_objects(*masks, labels=labels), iou, columns, shown))


def annotation(number: int, task: int, *regions: dict[str, Any], cancelled: bool = False) -> Annotation:
    return Annotation(number, task, "", list(regions), cancelled)


def test_a_true_iou_is_the_highest_with_anything_that_was_drawn() -> None:
    task = scored(1, block(0, 0, 10, 10), block(20, 20, 10, 10))
    drawn = [brush(block(0, 0, 10, 5), "a"), brush(block(0, 0, 10, 8), "b")]
    assert true_ious(task, drawn, BRUSH) == pytest.approx({0: 0.8, 1: 0.0}, abs=0.05)
    assert true_ious(task, [], BRUSH) == {0: 0.0, 1: 0.0}


def test_boxes_judge_boxes_and_no_masks() -> None:
    drawn = [rectangle(x=0, y=0, width=20, height=25)]
    with pytest.raises(RegionError, match="masks"):
        true_ious(scored(1, block(0, 0, 10, 10)), drawn, BRUSH)
    ragged = block(0, 0, 10, 10)
    ragged[4:, 4:] = False
    assert true_ious(scored(1, ragged), drawn, BOXES) == pytest.approx({0: 1.0}, abs=0.1)


def test_a_wrong_label_is_as_wrong_as_a_wrong_mask() -> None:
    mask = block(0, 0, 10, 10)
    task = scored(1, mask, mask, mask, labels=["cat", "dog", None])
    found = true_ious(task, [brush(mask, label="cat")], PETS)
    assert found == pytest.approx({0: 1.0, 1: 0.0}, abs=0.1), "and what nobody can name is no candidate"
    assert [final_label(task, number, PETS) for number in range(3)] == ["cat", "dog", None]
    assert pool_candidates([task], PETS).names == ["1-0", "1-1"]


def test_the_newest_answer_of_a_person_counts() -> None:
    mask = block(0, 0, 10, 10)
    tasks = {task: scored(task, mask) for task in (1, 2, 3, 4)}
    accepted = with_provenance(brush(mask), "nano-s+no-heads.pseudo-1")
    answers = [
        annotation(12, 1, brush(mask)),
        annotation(11, 1),
        annotation(10, 2, brush(block(0, 0, 10, 5))),
        annotation(13, 2, brush(mask), cancelled=True),
        annotation(14, 3, accepted),
        annotation(15, 9, brush(mask)),
    ]
    audit = audit_candidates(tasks, answers, BRUSH)
    assert audit.candidates.audited == [2, 1]
    assert audit.candidates.true_iou is not None
    assert dict(zip(audit.candidates.images, audit.candidates.true_iou, strict=True)) == pytest.approx(
        {2: 0.5, 1: 1.0}, abs=0.1
    )
    assert (audit.last_label, audit.left_out) == (12, {})


def test_only_answers_after_the_last_one_count_where_asked() -> None:
    mask = block(0, 0, 10, 10)
    tasks = {1: scored(1, mask), 2: scored(2, mask)}
    answers = [annotation(5, 1, brush(mask)), annotation(6, 2, brush(mask))]
    audit = audit_candidates(tasks, answers, BRUSH, after=5)
    assert (audit.candidates.audited, audit.last_label) == ([2], 6)
    nothing = audit_candidates(tasks, answers, BRUSH, after=6)
    assert (list(nothing.candidates.audited), nothing.last_label) == ([], 6)


def test_a_task_that_cannot_be_judged_is_left_out_with_the_reason() -> None:
    mask = block(0, 0, 10, 10)
    for wrong in ({"original_width": 20}, {"image_rotation": 10**400}, {"value": {"format": "rle", "rle": [10**400]}}):
        audit = audit_candidates({1: scored(1, mask)}, [annotation(5, 1, {**brush(mask), **wrong})], BRUSH)
        assert list(audit.candidates.names) == []
        assert set(audit.left_out) == {1}


def test_an_audit_where_nothing_is_marked_makes_its_masks_wrong() -> None:
    audit = audit_candidates({1: scored(1, block(0, 0, 9, 9))}, [annotation(5, 1)], BRUSH)
    assert audit.candidates.true_iou is not None
    assert audit.candidates.true_iou.tolist() == [0.0]


def test_the_pool_carries_scores_and_no_truth() -> None:
    mask = block(0, 0, 5, 5)
    pool = pool_candidates([scored(3, mask, mask), scored(4, mask), scored(5)], BRUSH)
    assert pool.names == ["3-0", "3-1", "4-0"]
    assert (pool.images, pool.audited, pool.image_count) == ([3, 3, 4], [3, 4, 5], 3)
    assert pool.predicted_iou == pytest.approx([0.9, 0.8, 0.9])
    assert pool.task_gap is not None
    assert pool.true_iou is None


def test_without_a_head_that_tells_it_there_is_no_task_gap() -> None:
    assert pool_candidates([scored(3, block(0, 0, 5, 5), gap=None)], BRUSH).task_gap is None
