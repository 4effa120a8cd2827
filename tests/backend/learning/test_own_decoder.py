"""What a project's decoder is tuned on: people's pixels, the newest first, and nothing where that is not wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.inference.model import LoadedModel
from backend.learning import own_decoder, project_labels
from backend.learning.own_decoder import OwnDecoder, tune_project
from backend.metrics.service import Metrics
from backend.pool.policy import audit_tasks
from backend.resources import Resources
from backend.settings import Settings
from tests.factories import brush, resources
from usam.training import decoder_tuning
from usam.training.decoder_tuning import DecoderVerdict


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel.load("nano-s", Settings.from_environment(model="nano-s", threads=1), Metrics(), None)


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel) -> Iterator[Resources]:
    opened = resources(tmp_path, model, own_decoder_seconds=5)
    studio: Any = opened.label_studio
    box = {**brush("b"), "type": "rectanglelabels"}
    box["value"] = {"x": 10, "y": 10, "width": 40, "height": 40, "rectanglelabels": ["thing"]}
    studio.add_task(1, [brush()])
    studio.add_task(2, [brush(), brush("s")], updated_at="2026-01-02T00:00:00.000000Z")
    studio.add_task(3, [box])
    studio.add_task(4, [])
    opened.store.record_tasks(1, studio.task_list)
    yield opened
    opened.store.close()


@pytest.fixture
def times() -> list[float]:
    """Seconds that each tuning was given."""
    return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> list[Any]:
    calls: list[Any] = []

    def tune(model: Any, images: Any, audits: Any, mixed: Any, settings: Any, **more: Any) -> Any:
        calls.append([[image.group for image in part] for part in (images, audits, mixed)])
        times.append(settings.seconds)
        return None, DecoderVerdict(False, "images left out", 4, 0.5, 0.4, 0.1)

    monkeypatch.setattr(decoder_tuning, "tune_decoder", tune)
    return calls


def test_only_pixels_teach_a_decoder_the_newest_first(place: Resources, asked: list[Any]) -> None:
    made = tune_project(place, 1, [1, 2, 3, 4], {1}, None)
    assert asked == [[["2"], ["1"], []]]
    assert (made.decoder, made.samples) == (None, [])
    assert "not surely better" in made.reason


def test_what_has_to_be_encoded_first_counts_against_the_budget(
    place: Resources, asked: list[Any], times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 103.5])
    monkeypatch.setattr(own_decoder, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    tune_project(place, 1, [1, 2], set(), None)
    assert times == [1.5]


def test_audits_that_nobody_has_labelled_yet_are_not_mixed_in(place: Resources, asked: list[Any]) -> None:
    place.settings = place.settings.model_copy(update={"audit_share": 0.5})
    studio: Any = place.label_studio
    for number in range(5, 13):
        studio.add_task(number)
    place.store.record_tasks(1, studio.task_list)
    for task in studio.task_list:
        place.embedding(place.model, place.images.fetch_bytes(task.data["image"], task.id))
    tune_project(place, 1, [1, 2], set(), None)
    ((_, _, mixed),) = asked
    audits = audit_tasks(place.settings, 1, range(5, 13))
    assert 0 < len(audits) < 8
    assert set(mixed) == {f"open {number}" for number in set(range(5, 13)) - audits}


def test_what_is_learnt_from_together_is_bounded(
    place: Resources, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_labels, "MOST_BYTES", 1)
    tune_project(place, 1, [1, 2], set(), None)
    assert asked == [[["2"], [], []]]


def test_too_few_images_are_said(place: Resources) -> None:
    made = tune_project(place, 1, [1, 2], set(), None)
    assert made.decoder is None
    assert made.reason == "decoder: expected at least 4 labelled images with objects, got 2"


@pytest.mark.parametrize("changed", [{"own_decoder_seconds": 0}, {"random_weights": True}])
def test_without_a_budget_or_with_random_weights_nothing_is_tuned(
    place: Resources, asked: list[Any], changed: dict[str, Any]
) -> None:
    place.settings = place.settings.model_copy(update=changed)
    made = tune_project(place, 1, [1, 2], set(), None)
    assert (made.decoder, made.reason, asked) == (OwnDecoder().decoder, "", [])
