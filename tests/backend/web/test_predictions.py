"""Live scores stand where the ranking would put them; choices follow what retrainings measured."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError

from backend.image_fetcher import ImageFetcher
from backend.inference.engine import Engine
from backend.label_studio.messages import PredictRequest
from backend.metrics.service import Metrics
from backend.pool.mask_selection import mask_choice
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import ScoreRow
from backend.web.predictions import Places, PredictionService
from usam.active.refinement import Gain
from usam.checkpoints.registry import weights_of
from usam.heads.head_set import HeadSet

CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="out" toName="img"><Label value="A"/></BrushLabels>
<KeyPointLabels name="kp" toName="img" smart="true"><Label value="A"/></KeyPointLabels></View>"""


def rows(*acquisitions: float) -> list[ScoreRow]:
    order = sorted(range(len(acquisitions)), key=lambda task: -acquisitions[task])
    count = len(order)
    return [ScoreRow(t, "v", acquisitions[t], (place + 1) / count, place, False) for place, t in enumerate(order)]


def test_a_ranked_task_has_the_confidence_of_its_place() -> None:
    places = Places.of("v", rows(0.1, 0.4, 0.2))
    assert places.confidence(1, acquisition=-9.0) == pytest.approx(1 / 3)
    assert places.confidence(0, acquisition=9.0) == 1.0


def test_another_task_stands_where_its_acquisition_would() -> None:
    places = Places.of("v", rows(0.1, 0.4, 0.2))
    found = [places.confidence(99, acquisition) for acquisition in (0.5, 0.3, 0.15, 0.0)]
    assert found == sorted(found)
    assert found == [0.25, 0.5, 0.75, 1.0]
    between = places.confidence(99, 0.3)
    assert places.confidences[1] < between < places.confidences[2], "between those that are asked before and after it"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'usam.db'}")


def record(store: Store, **gains: Gain) -> None:
    store.put_selection_gains(1, store.start_run(1, "retrain"), gains)


def measured(value: float, objects: int = 40) -> Gain:
    return Gain(value, value - 0.02, value + 0.02, objects, 20)


def test_masks_are_chosen_as_the_newest_measurement_says(store: Store) -> None:
    store.join(1)
    settings = Settings(model="nano-s")

    def choice(version: str = "mine") -> str:
        return mask_choice(settings, store, 1, version, "base")

    assert choice() == "predicted-iou", "nothing measured: as the checkpoint's heads"
    record(store, base=measured(-0.05))
    assert choice() == choice("base") == "samscore"
    record(store, mine=measured(0.05))
    assert (choice(), choice("base")) == ("predicted-iou", "samscore")
    record(store, mine=measured(-0.05, objects=4))
    assert choice() == "samscore", "too few objects say nothing, so the checkpoint's heads decide"
    fixed = Settings(model="nano-s", mask_choice="predicted-iou")
    assert mask_choice(fixed, store, 1, "mine", "base") == "predicted-iou"
    assert mask_choice(settings, store, 2, "mine", "base") == "predicted-iou"


def heads(**bias: float) -> HeadSet:
    """Random heads; `bias` moves a head's output before the sigmoid."""
    rng = np.random.default_rng(1)
    layers = {
        name: [
            (rng.normal(0, 0.05, (8, 256)), np.zeros(8)),
            (rng.normal(0, 0.05, (1, 8)), np.full(1, bias.get(name, 0.0))),
        ]
        for name in ("iou_nano_s", "task_gap", "prompt_gap", "model_gap")
    }
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint=weights_of("nano-s"), quality="iou_nano_s")


def task(number: int) -> dict[str, Any]:
    pixels = np.random.default_rng(number).integers(0, 60, (60, 80, 3), dtype=np.uint8)
    pixels[20:45, 20:50] = (220, 60, 40)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return {"id": number, "data": {"image": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}}


def ask(answers: PredictionService, number: int, context: Any = None) -> Any:
    body = {"tasks": [task(number)], "project": "1.0", "label_config": CONFIG, "params": {"context": context}}
    (found,) = answers.predict(PredictRequest.model_validate(body)).results
    return found


def test_a_click_says_which_model_made_its_mask(store: Store, tmp_path: Path) -> None:
    settings = Settings(
        model="nano-s",
        heads="none",
        threads=1,
        data_dir=tmp_path,
        budget_warm_up=1,
        larger_model="nano-m",
        larger_budget=1.0,
    )
    point = {"type": "keypointlabels", "original_width": 80, "original_height": 60, "from_name": "kp"}
    point["value"] = {"x": 43, "y": 50, "width": 1, "keypointlabels": ["A"]}
    with Engine(settings) as engine:
        engine.wait_ready(60)
        answers = PredictionService(settings, engine, ImageFetcher(settings), engine.metrics, None, store)
        engine.set_heads(1, heads(model_gap=-5.0))
        (sure,) = ask(answers, 1, {"result": [point]}).result
        assert sure["value"]["brushlabels"] == ["A"]
        assert not any("mask by" in text for text in sure["meta"]["text"])
        engine.set_heads(1, heads(model_gap=5.0, iou_nano_s=-3.0))
        (doubtful,) = ask(answers, 2, {"result": [point]}).result
        assert "mask by nano-m" in doubtful["meta"]["text"][0]


def test_a_live_score_is_that_of_the_served_ranking(store: Store, tmp_path: Path) -> None:
    settings = Settings(
        model="nano-s", heads="none", threads=1, data_dir=tmp_path, points_per_side=2, pred_iou_thresh=0.0
    )
    store.join(1)
    with Engine(settings) as engine:
        engine.wait_ready(60)
        answers = PredictionService(
            settings, engine, ImageFetcher(settings), engine.metrics, Registry(tmp_path / "heads"), store
        )
        alone = ask(answers, 1).score
        assert 0 < alone < 1
        version = "nano-s+no-heads.1"
        store.put_scores(1, [ScoreRow(n, version, 0.9 - n / 10, n / 4, n - 1, False) for n in (1, 2, 3, 4)])
        store.set_served(1, version)
        found = ask(answers, 2)
        assert (found.score, found.model_version) == (0.5, version)
        assert ask(answers, 9).score in [place / 5 for place in range(1, 6)]
        scored = ask(answers, 2)
        silence(store)
        answers._selected_at.clear()
        answers._places.clear()
        found = ask(answers, 2)
        assert found.model_version == version, "a database that starts again changes no version"
        assert found.result
        assert 0 < found.score < 1
        assert scored.score == 0.5


def silence(store: Store) -> None:
    """As a database that starts again."""

    def nothing(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT", None, ConnectionError("the server closed the connection"))

    for name in ("served", "ranking", "refinements", "projects", "selection_gain"):
        assert hasattr(store, name)
        setattr(store, name, nothing)


class FakeEngine:
    """An engine that only remembers what it was told."""

    checkpoint, state = "nano-s", "ready"

    def __init__(self) -> None:
        self.used: dict[int, HeadSet | None] = {}

    def heads(self, project: int | None = None) -> HeadSet | None:
        return self.used.get(project or 0)

    def set_heads(self, project: int, heads: HeadSet | None, learnt: Any, version: str, decoder: Any) -> None:
        self.used[project] = heads

    def set_mask_selection(self, project: int, selection: str) -> None:
        pass

    def suspend(self, project: int, actions: Any) -> None:
        pass

    def model_version(self, project: int | None = None) -> str:
        used = self.heads(project)
        return f"nano-s+{used.version if used is not None else 'no-heads'}"


def test_asking_for_the_version_changes_nothing_until_heads_are_refreshed(store: Store, tmp_path: Path) -> None:
    settings, registry, engine = Settings(model="nano-s", data_dir=tmp_path), Registry(tmp_path / "heads"), FakeEngine()
    answers = PredictionService(settings, engine, ImageFetcher(settings), Metrics(), registry, store)  # type: ignore[arg-type]
    own = heads()
    version = registry.publish(1, own, parent="", samples=3, labels=["1@t"], figures={})
    registry.promote(1, version.version)
    assert answers.model_version(1) == "nano-s+no-heads"
    assert engine.used == {}, "a getter swaps no heads"
    answers.refresh_heads(1)
    assert answers.model_version(1) == answers.versions(1)[0] == f"nano-s+{own.version}"
    answers.refresh_heads(2)
    assert answers.model_version(2) == "nano-s+no-heads"


def test_a_click_is_answered_on_the_image_and_by_the_control_that_it_means(tmp_path: Path) -> None:
    settings = Settings(model="nano-s", heads="none", threads=1, data_dir=tmp_path)
    config = """<View><Image name="left" value="$a"/><Image name="right" value="$photos[1].url"/>
    <BrushLabels name="bl" toName="left"><Label value="cat"/><Label value="tree"/></BrushLabels>
    <BrushLabels name="animals" toName="right"><Label value="cat"/></BrushLabels>
    <BrushLabels name="plants" toName="right"><Label value="tree"/></BrushLabels></View>"""
    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[20:45, 20:50] = (220, 60, 40)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    right = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    point: dict[str, Any] = {"type": "keypointlabels", "original_width": 80, "original_height": 60, "to_name": "right"}
    point["value"] = {"x": 43, "y": 50, "width": 1, "keypointlabels": ["tree"]}
    body = {
        "tasks": [{"id": 1, "data": {"a": "data:,no image", "photos": [{}, {"url": right}]}}],
        "label_config": config,
        "params": {"context": {"result": [point]}},
    }
    with Engine(settings) as engine:
        engine.wait_ready(60)
        answers = PredictionService(settings, engine, ImageFetcher(settings), engine.metrics)
        (found,) = answers.predict(PredictRequest.model_validate(body)).results
    (region,) = found.result
    assert (region["from_name"], region["to_name"]) == ("plants", "right")
    assert (region["value"]["brushlabels"], region["original_width"]) == (["tree"], 80)
