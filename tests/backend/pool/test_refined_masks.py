"""Refined masks of kept proposals: which mask is shown, what is kept beside it, and what happens where none can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.errors import FetchError
from backend.inference.refinement import Refinement
from backend.jobs.sync import run as sync
from backend.label_studio.config import parse_config
from backend.label_studio.shapes import region_to_mask
from backend.pool import refined_masks
from backend.pool.kept_objects import KeptObjects, Reading
from backend.pool.proposing import ProposalPlan
from backend.pool.refined_masks import BITS, MaskRefiner, alternative_predictions, true_gains
from backend.resources import Resources
from backend.store.records import ScoreRow
from tests.factories import HW, FakeModel, bright, brush, keep_proposals, kept_objects, label_config, resources
from usam.masks import encode_rle, iou
from usam.masks.packed_logits import PackedLogits

CONTROLS = parse_config(label_config())
LEFT = np.zeros(HW, bool)
LEFT[10:30, 5:20] = True


class Timed(FakeModel):
    """Every image takes half a second."""

    encode_s = 0.5


class Larger(Timed):
    """A larger model that only encodes; what it decodes is in `refinement`."""

    name = "nano-m"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """Two tasks with two objects each on the bright thing of their pictures."""
    opened = resources(tmp_path, Timed())
    studio: Any = opened.label_studio
    for number in (1, 2):
        studio.add_task(number)
    sync(opened, 1)
    keep_proposals(opened, 1, 2)
    larger: Any = Larger()
    opened.larger = larger
    yield opened
    opened.store.close()


def kept(place: Resources, task: int) -> KeptObjects:
    return KeptObjects.unpack(place.store.proposal_rows(1, [task])[task])


def small(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Low-resolution logits (64, 64) of a mask."""
    squeezed = cv2.resize(mask.astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST) > 0
    return np.where(squeezed, 5.0, -5.0).astype(np.float32)


def refinement(mask: np.ndarray[Any, Any], *, predicted: float = 0.9, is_kept: bool = True) -> Refinement:
    return Refinement(small(mask), predicted, predicted, {}, "nano-m", 0.2, is_kept, seconds=0.25)


def plan(place: Resources) -> ProposalPlan:
    return ProposalPlan(place, place.label_studio.project(1), None, None, CONTROLS, "samscore", None)


def refined(place: Resources, monkeypatch: pytest.MonkeyPatch, answer: Refinement, *numbers: int) -> MaskRefiner:
    """A refiner that was asked for the larger model's mask of these objects of task 1, which is `answer`."""

    def by_larger(_model: Any, _embedding: Any, prompts: list[Any], *_: Any) -> Iterator[None]:
        yield
        return [answer] * len(prompts)

    monkeypatch.setattr(refined_masks, "refine_by_larger", by_larger)
    refiner = MaskRefiner(plan(place))
    task = next(task for task in place.store.tasks(1) if task.id == 1)
    refiner.refine(task, {"larger": set(numbers)})
    return refiner


def test_a_better_mask_is_shown_and_the_one_before_is_kept_beside_it(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = refined(place, monkeypatch, refinement(LEFT), 0)
    after = kept(place, 1)
    assert iou(after.mask(0), LEFT) > 0.9
    assert iou(after.mask(0, first=True), bright()) > 0.9
    assert (after.larger[0].checkpoint, after.larger[0].iou) == ("nano-m", pytest.approx(0.9))
    assert after.acted.tolist() == [BITS["larger"], 0]
    assert (refiner.stats["larger"].acted, refiner.stats["larger"].kept) == (1, 1)
    assert refiner.stats["larger"].seconds == pytest.approx(0.75), "the encoding counts"
    assert refiner.cost is not None
    assert (refiner.cost.encode_s, refiner.cost.decode_s) == (0.5, 0.25)
    drawn_now = place.store.proposal_rows(1, [1])[1].drawings["0"]
    assert drawn_now == after.drawing(0, "brush", 1.5).facts, "what is drawn is the better mask"


@pytest.mark.parametrize("answer", [refinement(LEFT, is_kept=False), refinement(np.zeros(HW, bool))])
def test_a_mask_that_is_worse_or_empty_is_counted_and_not_shown(
    place: Resources, monkeypatch: pytest.MonkeyPatch, answer: Refinement
) -> None:
    before = kept(place, 1)
    refiner = refined(place, monkeypatch, answer, 1)
    after = kept(place, 1)
    assert after.larger == {}
    np.testing.assert_array_equal(after.mask(1), before.mask(1))
    assert after.acted.tolist() == [0, BITS["larger"]], "it is not tried again"
    assert (refiner.stats["larger"].acted, refiner.stats["larger"].kept) == (1, 0)


@pytest.mark.parametrize("error", [FetchError("an image", "404"), ValueError("no image")])
def test_a_task_whose_image_cannot_be_had_is_left_as_it_is(
    place: Resources, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    images: Any = place.images
    images.broken[1] = error
    before = place.store.proposal_rows(1, [1])[1]
    refiner = refined(place, monkeypatch, refinement(LEFT), 0)
    after = place.store.proposal_rows(1, [1])[1]
    assert (after.arrays, after.drawings) == (before.arrays, before.drawings)
    assert refiner.stats["larger"].acted == 0


def test_a_full_disk_is_not_one_tasks_fault(place: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    images: Any = place.images
    images.broken[1] = OSError("no space left")
    with pytest.raises(OSError, match="no space"):
        refined(place, monkeypatch, refinement(LEFT), 0)


def test_another_reading_is_kept_beside_the_mask_that_is_shown(place: Resources) -> None:
    before = kept(place, 1)
    refiner = MaskRefiner(plan(place))
    refiner.refine(next(task for task in place.store.tasks(1) if task.id == 1), {"alternatives": {1}})
    after = kept(place, 1)
    np.testing.assert_array_equal(after.mask(1), before.mask(1))
    assert after.acted.tolist() == [0, BITS["alternatives"]]
    assert after.alternative(1).any()
    assert 0 < after.alternatives[1].iou < 1
    assert refiner.stats["alternatives"].kept == 1


def offered(place: Resources, *tasks: int) -> list[dict[str, Any]]:
    rows = [ScoreRow(task, "v", 1.0, task / 10, task, False) for task in tasks]
    return alternative_predictions(plan(place), rows, "v")


def test_only_tasks_with_another_reading_get_a_second_prediction_of_the_same_score(place: Resources) -> None:
    reading = Reading(0.25, "nano-s", PackedLogits.of(small(LEFT)[None]))
    place.store.put_proposal(1, kept(place, 2).after(1, BITS["alternatives"], alternative=reading).pack(2, "key", {}))
    (second,) = offered(place, 1, 2)
    assert (second["task"], second["score"], second["model_version"]) == (2, 0.2, "v")
    sure, other = second["result"]
    assert sure["value"] == {**kept(place, 2).drawing(0, "brush", 1.5).value, "brushlabels": ["thing"]}
    assert other["score"] == 0.25
    assert "another reading: which object is meant is unclear" in other["meta"]["text"][0]
    assert iou(region_to_mask(other, HW), LEFT) > 0.9
    assert offered(place, 1) == []


def replaced(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> KeptObjects:
    """A task whose object 0 had one mask and has another now."""
    return kept_objects(before).after(
        0, BITS["larger"], larger=Reading(0.9, "nano-m", PackedLogits.of(small(after)[None]))
    )


def drawn(mask: np.ndarray[Any, Any], name: str = "drawn") -> dict[str, Any]:
    region = brush(name)
    region["value"]["rle"] = encode_rle(mask)
    return region


def test_a_gain_is_the_true_iou_of_the_mask_now_less_that_of_the_one_before() -> None:
    half = LEFT.copy()
    half[:, 12:] = False
    share = half.sum() / LEFT.sum()
    ((action, gain),) = true_gains(replaced(half, LEFT), [drawn(LEFT)], CONTROLS)
    assert (action, gain) == ("larger", pytest.approx(1 - share, abs=0.04))
    ((_, loss),) = true_gains(replaced(LEFT, half), [drawn(LEFT)], CONTROLS)
    assert loss == pytest.approx(share - 1, abs=0.04), "a loss counts as one"


def test_a_gain_is_judged_by_the_object_that_the_mask_is_on() -> None:
    right = LEFT[:, ::-1].copy()
    ((_, gain),) = true_gains(replaced(LEFT, LEFT), [drawn(right, "other"), drawn(LEFT)], CONTROLS)
    assert gain == 0.0
    assert true_gains(replaced(LEFT, LEFT), [drawn(right)], CONTROLS) == [], "nobody marked this object"


@pytest.mark.parametrize(
    "result", [[], [{"type": "choices"}], [{"type": "brushlabels", "value": {"format": "rle", "rle": [1, 2]}}]]
)
def test_annotations_without_a_readable_mask_tell_no_gain(result: list[Any]) -> None:
    assert true_gains(replaced(LEFT, LEFT), result, CONTROLS) == []


def test_masks_that_were_not_replaced_tell_no_gain() -> None:
    assert true_gains(kept_objects(LEFT), [drawn(LEFT)], CONTROLS) == []
