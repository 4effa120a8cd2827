"""Proposals fit the configuration, keep what heads do not change, and take over new numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.errors import StoreError
from backend.inference.model import LoadedModel
from backend.label_studio.config import parse_config
from backend.label_studio.records import Prediction
from backend.label_studio.regions import validated
from backend.metrics.service import Metrics
from backend.pool.proposals import (
    kept_prompts,
    pack,
    proposal_key,
    propose_objects,
    rescored,
    score_many,
    score_objects,
    to_regions,
    unpack,
)
from backend.settings import Settings
from backend.store.records import ProposalRow
from usam.heads.head_set import HeadSet

CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="thing"/><Label value="other"/></BrushLabels>
<Number name="task_gap" toName="img" perRegion="true"/><Number name="predicted_iou" toName="img"/></View>"""
NAMES = ("iou_nano_s", "prompt_gap", "task_gap")


def head_set(seed: int, width: int) -> HeadSet:
    rng = np.random.default_rng(seed)

    def layer(into: int, out: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return rng.normal(0, 0.1, (out, into)).astype(np.float32), np.full(out, 0.3, np.float32)

    return HeadSet.from_layers(
        {name: [layer(2 * width, 8), layer(8, 1)] for name in NAMES},
        alignment="aligned",
        checkpoint="nano-s",
        quality="iou_nano_s",
    )


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.from_environment(
        model="nano-s", heads="none", threads=1, points_per_side=3, pred_iou_thresh=0.0, max_regions=4
    )


@pytest.fixture(scope="module")
def model(settings: Settings) -> LoadedModel:
    return LoadedModel.load("nano-s", settings, Metrics(), None)


def propose(
    model: LoadedModel, heads: HeadSet | None, image: np.ndarray[Any, Any], settings: Settings, *given: Any
) -> tuple[Any, list[Any]]:
    found = propose_objects(model, heads, model.encode(image), settings, *given)
    return to_regions(found, heads, "nano-s", parse_config(CONFIG), settings)


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    picture = np.full((90, 120, 3), 40, np.uint8)
    picture[20:50, 30:80] = (230, 60, 60)
    picture[60:80, 90:110] = (60, 60, 230)
    return picture


@pytest.mark.parametrize("with_heads", [True, False])
def test_objects_are_at_most_as_many_as_set_and_fit_the_configuration(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any], with_heads: bool
) -> None:
    heads = head_set(0, model.width) if with_heads else None
    controls = parse_config(CONFIG)
    arrays, regions = propose(model, heads, image, settings)
    count = len(arrays["output"])
    assert 1 <= count <= 4
    assert arrays["iou_token"].shape == (count, model.width)
    assert arrays["mask_tokens"].shape == (count, 4, model.width)
    assert {int(one) for one in arrays["output"]} <= {1, 2, 3}
    result = rescored(regions, score_objects(heads, "nano-s", arrays), controls)
    validated(result, 0.5, controls)
    brushes = [one for one in result if one["type"] == "brushlabels"]
    assert len(brushes) == count
    assert sum(one["from_name"] == "predicted_iou" for one in result) == 1


def test_new_heads_change_numbers_and_nothing_else(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    controls = parse_config(CONFIG)
    old, new = head_set(0, model.width), head_set(1, model.width)
    arrays, regions = propose(model, old, image, settings)
    scores = score_objects(new, "nano-s", arrays)
    before = rescored(regions, score_objects(old, "nano-s", arrays), controls)
    after = rescored(regions, scores, controls)
    for one, other in zip(before, after, strict=True):
        if one["type"] == "brushlabels":
            assert one["value"] == other["value"]
            assert one["id"] == other["id"]
            assert one["score"] != other["score"]
            assert one["meta"]["text"] != other["meta"]["text"]
            assert one["meta"]["text"][1:] == other["meta"]["text"][1:]
    told = [one["value"]["number"] for one in after if one["from_name"] == "task_gap"]
    assert told == pytest.approx([score.gaps["task_gap"] for score in scores], abs=1e-4)
    (worst,) = (one["value"]["number"] for one in after if one["from_name"] == "predicted_iou")
    assert worst == pytest.approx(min(score.iou for score in scores), abs=1e-4)
    assert regions[0]["region"]["score"] == before[0]["score"], "what is kept is not changed"


def test_scores_of_kept_tokens_are_those_of_the_heads(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    heads = head_set(0, model.width)
    arrays, _ = propose(model, heads, image, settings)
    table = heads.score(arrays["iou_token"].astype(np.float32), arrays["mask_tokens"].astype(np.float32))
    for k, scores in enumerate(score_objects(heads, "nano-s", arrays)):
        column = int(arrays["output"][k]) - 1
        assert scores.scores["task_gap"] == pytest.approx(table["task_gap"][k, column], abs=1e-5)
        assert scores.iou == pytest.approx(float(np.clip(table["iou_nano_s"][k, column], 0, 1)), abs=1e-5)


def test_many_tasks_are_scored_as_one_by_one(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    heads = head_set(0, model.width)
    first, _ = propose(model, heads, image, settings)
    second, _ = propose(model, heads, image[:, ::-1].copy(), settings)
    empty = {name: array[:0] for name, array in first.items()}
    together = score_many(heads, "nano-s", [first, empty, second])
    assert together[1] == []
    for alone, joined in ((first, together[0]), (second, together[2])):
        for one, other in zip(score_objects(heads, "nano-s", alone), joined, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert score_many(heads, "nano-s", []) == []


def test_boxes_of_another_model_are_the_prompts(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    box = {
        "id": "b",
        "from_name": "rect",
        "to_name": "img",
        "type": "rectanglelabels",
        "original_width": 120,
        "original_height": 90,
        "image_rotation": 0,
        "value": {"x": 25, "y": 22.2, "width": 41.7, "height": 33.3, "rotation": 0, "rectanglelabels": ["other"]},
    }
    others = [Prediction(1, 3, "detector-7", 0.5, [box])]
    arrays, regions = propose(model, None, image, settings, others)
    assert len(arrays["output"]) == 1
    assert regions[0]["region"]["value"]["brushlabels"] == ["other"]


def test_kept_arrays_read_back_and_damage_is_said(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    arrays, regions = propose(model, None, image, settings)
    row = pack(3, "key", arrays, regions)
    for name, array in unpack(row).items():
        np.testing.assert_array_equal(array, arrays[name])
    with pytest.raises(StoreError, match="task 3"):
        unpack(ProposalRow(3, "key", row.arrays[:20], []))


def test_the_key_follows_image_model_and_configuration_but_not_heads(settings: Settings) -> None:
    key = proposal_key(settings, CONFIG, "a")
    assert key == proposal_key(settings.model_copy(update={"heads": "auto", "strategy": "random"}), CONFIG, "a")
    assert key != proposal_key(settings, CONFIG, "b")
    assert key != proposal_key(settings, CONFIG.replace("other", "else"), "a")
    assert key != proposal_key(settings.model_copy(update={"points_per_side": 4}), CONFIG, "a")


def test_masks_are_chosen_by_sams_own_score_where_that_is_what_pays(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    heads = head_set(0, model.width)
    prompt = {
        "id": "p",
        "from_name": "point",
        "to_name": "img",
        "type": "keypointlabels",
        "original_width": 120,
        "original_height": 90,
        "value": {"x": 45.0, "y": 38.0, "width": 1, "keypointlabels": ["thing"]},
    }
    box = {**prompt, "type": "rectanglelabels", "value": {"x": 25, "y": 22, "width": 42, "height": 33}}
    for others in ([Prediction(1, 3, "detector-7", 0.5, [prompt])], [Prediction(1, 3, "detector-7", 0.5, [box])]):
        arrays, _ = propose(model, heads, image, settings, others, "samscore")
        decoded = model.outputs(model.encode(image), kept_prompts(arrays)[:1])
        assert int(arrays["output"][0]) == int(decoded.ious[0, 1:].argmax()) + 1
    assert proposal_key(settings, CONFIG, "a") != proposal_key(settings, CONFIG, "a", "samscore")
