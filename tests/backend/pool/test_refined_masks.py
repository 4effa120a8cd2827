"""Refined masks of kept proposals: which mask is shown, what is kept beside it, and what happens where none can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import FetchError
from backend.inference.refinement import Refinement
from backend.jobs.sync import run as sync
from backend.label_studio.config import parse_config
from backend.pool import refined_masks
from backend.pool.proposals import ObjectScores, pack, unpack
from backend.pool.refined_masks import (
    BITS,
    MaskRefiner,
    alternative_predictions,
    object_label,
    shown_mask,
    true_gains,
)
from backend.resources import Resources
from backend.store.records import ScoreRow
from tests.factories import HW, FakeModel, brush, keep_proposals, label_config, resources
from usam.masks import decode_rle, encode_rle

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


def kept(place: Resources, task: int) -> tuple[dict[str, Any], list[Any]]:
    row = place.store.proposal_rows(1, [task])[task]
    return dict(unpack(row)), list(row.regions)


def refinement(mask: np.ndarray[Any, Any], *, iou: float = 0.9, is_kept: bool = True) -> Refinement:
    logits = np.where(mask, 5.0, -5.0).astype(np.float32)
    return Refinement(logits, iou, iou, {}, "nano-m", 0.2, is_kept, seconds=0.25)


def refined(place: Resources, monkeypatch: pytest.MonkeyPatch, answer: Refinement, *numbers: int) -> MaskRefiner:
    """A refiner that was asked for the larger model's mask of these objects of task 1, which is `answer`."""

    def by_larger(_model: Any, _embedding: Any, prompts: list[Any], *_: Any) -> Iterator[None]:
        yield
        return [answer] * len(prompts)

    monkeypatch.setattr(refined_masks, "refine_by_larger", by_larger)
    refiner = MaskRefiner(place, 1, None, CONTROLS, "samscore")
    task = next(task for task in place.store.tasks(1) if task.id == 1)
    refiner.refine(task, {"larger": set(numbers)})
    return refiner


def test_a_better_mask_is_shown_and_the_one_before_is_kept_beside_it(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown_mask(kept(place, 1)[1], 0, CONTROLS, HW)
    refiner = refined(place, monkeypatch, refinement(LEFT), 0)
    arrays, regions = kept(place, 1)
    assert [one["object"] for one in regions] == [0, 1], "every object keeps its place"
    np.testing.assert_array_equal(shown_mask(regions, 0, CONTROLS, HW), LEFT)
    assert "mask by nano-m" in regions[0]["region"]["meta"]["text"]
    np.testing.assert_array_equal(decode_rle(arrays["before_0"].tolist(), HW) > 127, before)
    assert arrays["acted"].tolist() == [BITS["larger"], 0]
    assert arrays["acted_iou"][0] == pytest.approx(0.9)
    assert np.isnan(arrays["acted_iou"][1])
    assert (refiner.stats["larger"].acted, refiner.stats["larger"].kept) == (1, 1)
    assert refiner.stats["larger"].seconds == pytest.approx(0.75), "the encoding counts"
    assert refiner.cost is not None
    assert (refiner.cost.encode_s, refiner.cost.decode_s) == (0.5, 0.25)


@pytest.mark.parametrize("answer", [refinement(LEFT, is_kept=False), refinement(np.zeros(HW, bool))])
def test_a_mask_that_is_worse_or_empty_is_counted_and_not_shown(
    place: Resources, monkeypatch: pytest.MonkeyPatch, answer: Refinement
) -> None:
    before = kept(place, 1)[1]
    refiner = refined(place, monkeypatch, answer, 1)
    arrays, regions = kept(place, 1)
    assert regions == before
    assert "before_1" not in arrays
    assert arrays["acted"].tolist() == [0, BITS["larger"]], "it is not tried again"
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
    assert (after.arrays, after.regions) == (before.arrays, before.regions)
    assert refiner.stats["larger"].acted == 0


def test_a_full_disk_is_not_one_tasks_fault(place: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    images: Any = place.images
    images.broken[1] = OSError("no space left")
    with pytest.raises(OSError, match="no space"):
        refined(place, monkeypatch, refinement(LEFT), 0)


def test_another_reading_is_kept_beside_the_mask_that_is_shown(place: Resources) -> None:
    before = kept(place, 1)[1]
    refiner = MaskRefiner(place, 1, None, CONTROLS, "samscore")
    refiner.refine(next(task for task in place.store.tasks(1) if task.id == 1), {"alternatives": {1}})
    arrays, regions = kept(place, 1)
    assert regions == before
    assert arrays["acted"].tolist() == [0, BITS["alternatives"]]
    assert (decode_rle(arrays["alternative_1"].tolist(), HW) > 127).any()
    assert 0 < float(arrays["alternative_iou_1"][0]) < 1
    assert refiner.stats["alternatives"].kept == 1


def offered(place: Resources, *tasks: int) -> list[dict[str, Any]]:
    rows = [ScoreRow(task, "v", 1.0, task / 10, task, False) for task in tasks]
    objects = {task: [ObjectScores(0.8, {"task_gap": 0.3}), ObjectScores(0.7, {"task_gap": 0.1})] for task in tasks}
    return alternative_predictions(place, 1, rows, objects, CONTROLS, "v")


def test_only_tasks_with_another_reading_get_a_second_prediction_of_the_same_score(place: Resources) -> None:
    arrays, regions = kept(place, 2)
    more = {
        "image_hw": np.array(HW, np.int64),
        "alternative_1": np.array(encode_rle(LEFT), np.uint8),
        "alternative_iou_1": np.array([0.25], np.float32),
    }
    place.store.put_proposal(1, pack(2, "key", {**arrays, **more}, regions))
    (second,) = offered(place, 1, 2)
    assert (second["task"], second["score"], second["model_version"]) == (2, 0.2, "v")
    first, other = second["result"]
    assert first["id"] == regions[0]["region"]["id"], "the sure object is the same"
    assert first["score"] == 0.8
    assert other["id"] != regions[1]["region"]["id"]
    assert other["score"] == 0.25
    assert "another reading: which object is meant is unclear" in other["meta"]["text"]
    mask = shown_mask([{"object": 1, "region": other}], 1, CONTROLS, HW)
    np.testing.assert_array_equal(mask, LEFT)
    assert offered(place, 1) == []


def replaced(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> tuple[dict[str, Any], list[Any]]:
    """A task whose object 0 had one mask and has another now."""
    arrays = {
        "acted": np.array([BITS["larger"]]),
        "image_hw": np.array(HW),
        "before_0": np.array(encode_rle(before), np.uint8),
    }
    region = brush("made")
    region["value"]["rle"] = encode_rle(after)
    return arrays, [{"object": 0, "region": region}]


def drawn(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    region = brush("drawn")
    region["value"]["rle"] = encode_rle(mask)
    return region


def test_a_gain_is_the_true_iou_of_the_mask_now_less_that_of_the_one_before() -> None:
    half = LEFT.copy()
    half[:, 12:] = False
    share = half.sum() / LEFT.sum()
    ((action, gain),) = true_gains(*replaced(half, LEFT), [drawn(LEFT)], CONTROLS)
    assert (action, gain) == ("larger", pytest.approx(1 - share))
    ((_, loss),) = true_gains(*replaced(LEFT, half), [drawn(LEFT)], CONTROLS)
    assert loss == pytest.approx(share - 1), "a loss counts as one"


def test_a_gain_is_judged_by_the_object_that_the_mask_is_on() -> None:
    right = LEFT[:, ::-1].copy()
    ((_, gain),) = true_gains(*replaced(LEFT, LEFT), [drawn(right), drawn(LEFT)], CONTROLS)
    assert gain == 0.0
    assert true_gains(*replaced(LEFT, LEFT), [drawn(right)], CONTROLS) == [], "nobody marked this object"


@pytest.mark.parametrize(
    "result", [[], [{"type": "choices"}], [{"type": "brushlabels", "value": {"format": "rle", "rle": [1, 2]}}]]
)
def test_annotations_without_a_readable_mask_tell_no_gain(result: list[Any]) -> None:
    assert true_gains(*replaced(LEFT, LEFT), result, CONTROLS) == []


def test_masks_that_were_not_replaced_tell_no_gain() -> None:
    arrays, regions = replaced(LEFT, LEFT)
    arrays["acted"] = np.array([BITS["alternatives"]])
    assert true_gains(arrays, regions, [drawn(LEFT)], CONTROLS) == []


def test_an_object_of_several_parts_shows_them_all_and_one_without_shows_none() -> None:
    right = LEFT[:, ::-1].copy()
    regions = [{"object": 0, "region": drawn(LEFT)}, {"object": 0, "region": drawn(right)}]
    np.testing.assert_array_equal(shown_mask(regions, 0, CONTROLS, HW), LEFT | right)
    assert shown_mask(regions, 1, CONTROLS, HW) is None


def test_a_label_is_read_from_whichever_region_of_the_object_has_one() -> None:
    scores = {"from_name": "gauge", "type": "number", "value": {"number": 0.5}}
    labels = {"from_name": "l", "type": "labels", "value": {"labels": ["leaf"]}}
    regions = [{"object": 0, "region": scores}, {"object": 0, "region": labels}, {"object": 1, "region": scores}]
    assert object_label(regions, 0) == "leaf"
    assert object_label(regions, 1) is None
