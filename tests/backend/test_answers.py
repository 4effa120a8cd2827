"""Live scores stand where the ranking would put them; choices follow what retrainings measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.answers import Places
from backend.choices import mask_choice
from backend.settings import Settings
from backend.store import Store
from backend.store.records import ScoreRow


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


def record(store: Store, **choice: dict[str, float]) -> None:
    run = store.start_run(1, "retrain")
    store.finish_run(run, "done", "", {"choice": choice})


def measured(value: float, objects: int = 40) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "objects": objects, "images": 20}


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
