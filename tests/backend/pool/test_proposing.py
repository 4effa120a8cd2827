"""Tasks that the model was not asked about are asked about once; one that fails is one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import LabelStudioError, LabelStudioUnreachable, reason_of
from backend.inference.model import LoadedModel
from backend.jobs.sync import run as sync
from backend.metrics.service import Metrics
from backend.pool import proposing
from backend.pool.kept_objects import KeptObjects
from backend.pool.proposals import propose_objects
from backend.pool.proposing import ProposalPlan
from backend.pool.proposing import propose as propose_tasks
from backend.resources import Resources
from backend.settings import Settings
from tests.factories import resources


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    made = Settings.from_environment(model="nano-s", heads="none", threads=1)
    return LoadedModel.load("nano-s", made, Metrics(), None)


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel) -> Iterator[Resources]:
    opened = resources(tmp_path, model, points_per_side=3, pred_iou_thresh=0.0)
    studio: Any = opened.label_studio
    for number in range(1, 4):
        studio.add_task(number)
    sync(opened, 1)
    yield opened
    opened.store.close()


def propose(place: Resources) -> int:
    known = place.label_studio.project(1)
    plan = ProposalPlan.of(place, known)
    missing = plan.missing(place.store.tasks(1))
    steps: list[int] = []
    propose_tasks(plan, missing, steps.append)
    assert steps == list(range(len(missing)))
    return len(missing)


def test_every_task_is_asked_about_once_and_what_is_shown_is_drawn(place: Resources) -> None:
    assert propose(place) == 3
    for row in place.store.proposal_rows(1, [1, 2, 3]).values():
        kept = KeptObjects.unpack(row)
        assert 1 <= len(kept) <= 40
        assert kept.looks.features.shape[1] > 100
        assert {int(number) for number in row.drawings} <= set(range(len(kept)))
        assert row.drawings
        assert np.isfinite(kept.samscore).all()
    assert propose(place) == 0


def test_a_task_whose_image_is_broken_says_why_and_is_tried_again(place: Resources) -> None:
    images: Any = place.images
    images.broken[2] = ValueError("no image at all")
    assert propose(place) == 3
    assert place.store.unreadable(1) == {2: "ValueError: no image at all"}
    images.broken.clear()
    assert propose(place) == 1
    assert place.store.unreadable(1) == {}


@pytest.mark.parametrize("error", [RuntimeError("not enough memory"), MemoryError("no"), ValueError("no")])
def test_an_image_that_the_model_fails_on_keeps_no_other_from_being_ranked(
    place: Resources, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What torch raises where memory is out ended the ranking, each time it was tried again."""
    asked: list[int] = []

    def fail_once(*given: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise error
        return propose_objects(*given)

    with monkeypatch.context() as broken:
        broken.setattr(proposing, "propose_objects", fail_once)
        assert propose(place) == 3
    assert place.store.unreadable(1) == {2: reason_of(error)}
    assert propose(place) == 1


def test_a_task_whose_predictions_cannot_be_read_is_one_task_and_no_answer_ends_all(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio: Any = place.label_studio
    studio.task_list[1] = replace(studio.task_list[1], predictions=1, updated_at="2026-01-02T00:00:00.000000Z")
    sync(place, 1)
    refusal = LabelStudioError("predictions", "status 500", "look into its log", status=500)

    def refuse(project: int, tasks: Any) -> Any:
        raise refusal

    monkeypatch.setattr(studio, "predictions", refuse)
    assert propose(place) == 3
    assert place.store.unreadable(1) == {2: str(refusal)}
    refusal = LabelStudioUnreachable("an answer", "none", "start it")
    with pytest.raises(LabelStudioUnreachable):
        propose(place)
