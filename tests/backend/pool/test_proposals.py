"""Proposals fit the configuration, keep what heads do not change, and take over new numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.inference.intake import SourceImage
from backend.inference.model import LoadedModel
from backend.label_studio.config import parse_config
from backend.label_studio.records import Prediction
from backend.label_studio.regions import validated
from backend.metrics.service import Metrics
from backend.pool.kept_objects import KeptObjects, Told
from backend.pool.proposals import (
    ScoredObjects,
    draw_shown,
    object_name,
    proposal_key,
    propose_objects,
    regions_of,
    score_many,
)
from backend.settings import Settings
from tests.factories import kept_objects
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
) -> ScoredObjects:
    found = propose_objects(model, heads, SourceImage("", None, image, lambda: image), settings, *given)
    return scored(heads, found.kept, settings)


def scored(heads: HeadSet | None, kept: KeptObjects, settings: Settings) -> ScoredObjects:
    return score_many(heads, None, settings, [kept])[0]


def sent(one: ScoredObjects, settings: Settings, known: Any = None) -> list[dict[str, Any]]:
    controls = parse_config(CONFIG)
    return regions_of(one, draw_shown(one, controls, settings, known=known), controls, settings)


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
    one = propose(model, heads, image, settings)
    count, shown = len(one.kept), len(one.shown.rows)
    assert 1 <= shown <= 4 <= count <= 40
    assert one.kept.iou_token.shape == (count, model.width)
    assert one.kept.mask_tokens.shape == (count, 4, model.width)
    assert {int(output) for output in one.kept.output} <= {1, 2, 3}
    assert one.kept.looks.features.shape[0] == count
    assert one.kept.looks.features.shape[1] > 100, "the trunk's maps are pooled"
    result = sent(one, settings)
    validated(result, 0.5, parse_config(CONFIG))
    brushes = [region for region in result if region["type"] == "brushlabels"]
    assert len(brushes) == shown
    assert all(region["value"]["brushlabels"] == [] for region in brushes), "no label is guessed"
    assert sum(region["from_name"] == "predicted_iou" for region in result) == 1


def test_new_heads_change_numbers_and_no_mask(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    old, new = head_set(0, model.width), head_set(1, model.width)
    one = propose(model, old, image, settings)
    other = scored(new, one.kept, settings)
    both = sorted(set(one.shown.rows.tolist()) & set(other.shown.rows.tolist()))
    assert both
    drawings = draw_shown(one, parse_config(CONFIG), settings)
    again = draw_shown(other, parse_config(CONFIG), settings, known=drawings)
    for number in both:
        assert again[number] is drawings[number], "it is not traced again"
        assert one.scores(number).iou != other.scores(number).iou
    told = [region["value"]["number"] for region in sent(other, settings) if region["from_name"] == "task_gap"]
    wanted = [other.scores(number).gaps["task_gap"] for number in other.shown.rows.tolist()]
    assert told == pytest.approx(wanted, abs=1e-4)


def test_scores_of_kept_tokens_are_those_of_the_heads(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    heads = head_set(0, model.width)
    one = propose(model, heads, image, settings)
    table = heads.score(one.kept.iou_token.astype(np.float32), one.kept.mask_tokens.astype(np.float32))
    for k in range(len(one.kept)):
        column, scores = int(one.kept.output[k]) - 1, one.scores(k)
        assert scores.scores["task_gap"] == pytest.approx(table["task_gap"][k, column], abs=1e-5)
        assert scores.iou == pytest.approx(float(np.clip(table["iou_nano_s"][k, column], 0, 1)), abs=1e-5)


def test_many_tasks_are_scored_as_one_by_one(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    heads = head_set(0, model.width)
    first = propose(model, heads, image, settings)
    second = propose(model, heads, image[:, ::-1].copy(), settings)
    together = score_many(heads, None, settings, [first.kept, kept_objects(width=model.width), second.kept])
    assert len(together[1].shown.rows) == 0
    for alone, joined in ((first, together[0]), (second, together[2])):
        assert alone.shown.rows.tolist() == joined.shown.rows.tolist()
        for name, values in alone.columns.items():
            np.testing.assert_allclose(values, joined.columns[name], atol=1e-5)
    assert score_many(heads, None, settings, []) == []


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
    one = propose(model, None, image, settings, [Prediction(1, 3, "detector-7", 0.5, [box])])
    assert (len(one.kept), one.kept.given) == (1, True)
    assert sent(one, settings)[0]["value"]["brushlabels"] == ["other"]


TWO_CONTROLS = """<View><Image name="img" value="$image"/>
<BrushLabels name="animals" toName="img"><Label value="cat"/><Label value="tree"/></BrushLabels>
<BrushLabels name="plants" toName="img" choice="multiple"><Label value="tree"/><Label value="oak"/></BrushLabels>
<PolygonLabels name="parts" toName="img"><Label value="leaf"/></PolygonLabels></View>"""


@pytest.mark.parametrize(
    ("labels", "by", "control", "written", "said"),
    [
        (["tree", "oak"], "plants", "plants", ["tree", "oak"], ""),
        (["tree"], "plants", "plants", ["tree"], ""),
        (["cat", "oak"], "animals", "animals", ["cat"], "also labelled 'oak'"),
        (["thing", "leaf"], "boxes", "parts", ["leaf"], "'thing'"),
    ],
)
def test_all_labels_of_another_models_region_count(
    settings: Settings, labels: list[str], by: str, control: str, written: list[str], said: str
) -> None:
    mask = np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    kept = kept_objects(mask, labels=labels[:1], told={0: Told(tuple(labels[1:]), by)}, given=True)
    kept = KeptObjects.unpack(kept.pack(1, "key", {}))
    controls = parse_config(TWO_CONTROLS)
    one = scored(None, kept, settings)
    (region,) = validated(regions_of(one, draw_shown(one, controls, settings), controls, settings), 0.5, controls)
    assert (region["from_name"], region["value"].get(region["type"])) == (control, written)
    assert said in "; ".join(region["meta"]["text"])
    assert one.placed(0, controls).label == written[0]


def test_labels_of_another_models_region_are_kept_beside_its_box(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    box = {
        "from_name": "plants",
        "to_name": "img",
        "type": "rectanglelabels",
        "value": {"x": 25, "y": 22, "width": 42, "height": 33, "rectanglelabels": ["tree", "oak"]},
    }
    kept = propose(model, None, image, settings, [Prediction(1, 3, "detector-7", 0.5, [box])]).kept
    assert (kept.labels, kept.told) == (("tree",), {0: Told(("oak",), "plants")})


def test_ids_are_the_same_each_time_where_that_is_asked_for(
    model: LoadedModel, settings: Settings, image: np.ndarray[Any, Any]
) -> None:
    one, controls = propose(model, None, image, settings), parse_config(CONFIG)
    drawings, number = draw_shown(one, controls, settings), int(one.shown.rows[0])
    (first, *_), (again, *_) = (
        regions_of(one, drawings, controls, settings, numbers=[number], prefix="v/1") for _ in range(2)
    )
    assert first["id"] == again["id"] == object_name("v/1", number) != object_name("v/2", number)


def test_the_key_follows_image_model_and_configuration_but_not_heads(settings: Settings) -> None:
    key = proposal_key(settings, CONFIG, "a")
    assert key == proposal_key(settings.model_copy(update={"heads": "auto", "strategy": "random"}), CONFIG, "a")
    assert key != proposal_key(settings, CONFIG, "b")
    assert key != proposal_key(settings, CONFIG.replace("other", "else"), "a")
    assert key != proposal_key(settings.model_copy(update={"points_per_side": 4}), CONFIG, "a")
    assert key != proposal_key(settings.model_copy(update={"tiles": 2}), CONFIG, "a")
    assert key == proposal_key(settings.model_copy(update={"tiles": 1}), CONFIG, "a"), "which is no second pass"


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
        kept = propose(model, heads, image, settings, others, "samscore").kept
        decoded = model.outputs(model.encode(image), kept.prompts[:1])
        assert int(kept.output[0]) == int(decoded.ious[0, 1:].argmax()) + 1
    assert proposal_key(settings, CONFIG, "a") != proposal_key(settings, CONFIG, "a", "samscore")
