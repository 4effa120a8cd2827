from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from backend.label_studio.messages import (
    PredictAnswer,
    Prediction,
    PredictRequest,
    SetupRequest,
    Task,
    WebhookEvent,
    project_number,
)


@pytest.mark.parametrize(
    "params",
    [None, {}, {"context": None}, {"context": {}}, {"login": None, "password": None, "context": {"result": None}}, "x"],
)
def test_no_context_is_a_batch(params: object) -> None:
    request = PredictRequest.model_validate({"tasks": [{}], "project": "7.179", "params": params, "new_key": 1})
    assert not request.interactive
    assert request.project_id == 7


def test_context_is_interactive_and_junk_in_it_dropped() -> None:
    request = PredictRequest.model_validate({"params": {"context": {"result": [{"id": "a"}, None, 3]}}})
    assert request.interactive
    assert request.params.context.result == [{"id": "a"}]
    assert request.tasks == []


def test_task_tolerates_missing_and_null() -> None:
    task = Task.model_validate({"id": 3, "data": None, "predictions": None, "drafts": "x", "file_upload": "name"})
    assert (task.id, task.data, task.predictions, task.drafts) == (3, {}, [], [])


def test_setup_keeps_no_secret() -> None:
    message = SetupRequest.model_validate(
        {"project": "2.1", "schema": "<View/>", "access_token": "hush", "extra_params": {}}
    )
    assert message.label_config == "<View/>"
    assert "hush" not in repr(message)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("2.1795423842", 2), ("12", 12), (5, 5), ("", None), (None, None), ("x.1", None), (True, None), ("-3", None)],
        *[(2**63, None), (2**63 - 1, 2**63 - 1), (f"{2**63}.1", None), (-1, None), (10**400, None), ({}, None)],
    ],
)
def test_project_number(value: object, number: int | None) -> None:
    assert project_number(value) == number


@pytest.mark.parametrize(
    ("payload", "action", "project"),
    [
        ({"action": "START_TRAINING", "project": {"id": 4}}, "START_TRAINING", 4),
        ({"project": 4}, "", 4),
        ({"action": None}, "", None),
        ({"action": "NEW", "project": {"name": "x"}}, "NEW", None),
    ],
)
def test_webhook_event(payload: dict[str, object], action: str, project: int | None) -> None:
    event = WebhookEvent.model_validate(payload)
    assert (event.action, event.project_id) == (action, project)


@pytest.mark.parametrize("action", ["\ud800", "a\0b", 10**400])
def test_an_action_that_no_database_takes_is_made_one_that_it_does(action: object) -> None:
    event = WebhookEvent.model_validate({"action": action, "project": {"id": 1}})
    assert "\0" not in event.action
    assert event.action.encode().decode() == event.action


@pytest.mark.parametrize("number", [-1, 10**30, 2**63])
def test_a_task_of_an_impossible_id_is_refused(number: int) -> None:
    with pytest.raises(ValidationError):
        Task.model_validate({"id": number})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1, "high", None])
def test_answered_scores_are_finite_and_in_range(score: object) -> None:
    with pytest.raises(ValidationError):
        Prediction.model_validate({"score": score, "model_version": "v"})


def test_answer_needs_a_version() -> None:
    with pytest.raises(ValidationError):
        Prediction(model_version="")
    answer = PredictAnswer(results=[Prediction(model_version="v", score=1.0, reason="why")])
    assert json.loads(answer.model_dump_json())["results"][0]["reason"] == "why"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["05_predict_batch.json", "07_predict_interactive.json"])
def test_recorded_predict_requests(shared: Path, name: str) -> None:
    body = json.loads((shared / "label_studio" / "samples" / name).read_text())["body"]
    request = PredictRequest.model_validate(body)
    assert request.project_id == 2
    assert request.interactive == ("interactive" in name)
    assert all(Task.model_validate(task).data["image"] for task in request.tasks)


@pytest.mark.shared
def test_recorded_events(shared: Path) -> None:
    from backend.web.inbox import ACTIONS, subjects_of

    found = {}
    for path in sorted((shared / "label_studio" / "samples").glob("*_webhook_*.json")):
        body = json.loads(path.read_text())["body"]
        event = WebhookEvent.model_validate(body)
        assert event.project_id == 2
        assert event.action in ACTIONS
        found[event.action] = subjects_of(body)
    assert found["ANNOTATIONS_CREATED"] == [7, 8]
    assert found["ANNOTATIONS_DELETED"]
    assert found["TASKS_DELETED"] == [15]
    assert found["START_TRAINING"] == []
