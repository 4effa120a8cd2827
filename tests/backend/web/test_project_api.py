"""Calls of programs: each does what a button does, asks for JSON and the password, and is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.inference.engine import Engine
from backend.learning.review import keep_review, review_project
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.web.app import create_app
from tests.backend.learning.reviewed import fill
from tests.backend.web.dashboard.test_trust import record
from tests.factories import PageQueue, head_set

OLD = head_set(1).version
ANN = ("ann", "secret")
CALLS: dict[str, dict[str, Any]] = {
    "rollback": {"version": OLD},
    "train": {},
    "rank": {},
    "accept": {"iou": 0.8, "risk": 0.1},
    "take-back": {},
}
JOBS = {"rollback": "score_pool", "train": "retrain", "rank": "score_pool", "accept": "pseudo_label"}


@pytest.fixture
def app(
    guarded: Settings,
    store: Store,
    registry: Registry,
    queue: PageQueue,
    engine: Engine,
) -> Iterator[FastAPI]:
    made = create_app(guarded, engine, store, queue, registry)  # type: ignore[arg-type]
    yield made
    made.state.service.close()


def call(
    app: FastAPI, path: str, body: Any = None, *, auth: tuple[str, str] | None = ANN, **headers: str
) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9090", auth=auth) as client:
            if body is None:
                return await client.get(f"/api/projects/{path}", headers=headers)
            if isinstance(body, bytes):
                return await client.post(f"/api/projects/{path}", content=body, headers=headers)
            return await client.post(f"/api/projects/{path}", json=body, headers=headers)

    return asyncio.run(request())


@pytest.mark.parametrize("action", CALLS)
def test_each_does_what_the_button_does_and_is_written_down(app: FastAPI, queue: PageQueue, action: str) -> None:
    answer = call(app, f"3/{action}", CALLS[action])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["project"], told["action"]) == (3, action)
    assert queue.jobs == [(3, JOBS.get(action, "pseudo_label"))]
    (done,) = app.state.service.board.actions.log.last(3)
    assert done.action == action
    assert done.who.startswith("ann from ")
    assert done.who.endswith(", by a call")
    assert done.outcome == told["outcome"]


def test_a_roll_back_moves_the_pointer(app: FastAPI, registry: Registry) -> None:
    call(app, "3/rollback", {"version": OLD})
    assert registry.champion(3) == OLD
    call(app, "3/rollback", {"version": "base"})
    assert registry.champion(3) == ""
    answer = call(app, "3/rollback", {"version": "../../elsewhere"})
    assert answer.status_code == 400
    assert answer.json()["remedy"]


def test_a_promise_is_taken_whole_and_its_end_can_be_asked_for(
    app: FastAPI,
    store: Store,
    settings: Settings,
) -> None:
    body = {"iou": 0.7, "risk": 0.2, "confidence": 0.8, "per_image": 1, "as_annotations": True}
    call(app, "3/accept", body)
    waiting = store.waiting_acceptance(3)
    assert waiting is not None
    promise = waiting.promise
    assert (promise.iou, promise.risk, promise.confidence, promise.per_image) == (0.7, 0.2, 0.8, 1)
    assert waiting.as_annotations
    told = call(app, "3/acceptance").json()
    assert (told["state"], told["masks"]) == ("", 0)
    assert told["requests"][0]["state"] == "waiting"
    store.end_acceptance(waiting.id, "refused", "label 10 more audit tasks", 10)
    PseudoLabelStore.of(settings).put(3, record())
    told = call(app, "3/acceptance").json()
    assert (told["state"], told["version"], told["masks"], told["tasks"]) == ("in force", "v.pseudo-9", 2, 1)
    assert (told["requests"][0]["state"], told["requests"][0]["needed"]) == ("refused", 10)
    (settings.data_dir / "pseudo_labels" / "3" / "9" / "record.json").write_text("{")
    for path in (settings.data_dir / "pseudo_labels" / "3" / "9").iterdir():
        path.write_text("{")
    damaged = call(app, "3/acceptance")
    assert damaged.status_code == 503
    assert "usam-backend repair" in damaged.json()["remedy"]


def test_a_doubted_label_is_said_to_be_right(
    app: FastAPI,
    store: Store,
    settings: Settings,
) -> None:
    fill(store, 3)
    review = review_project(store, 3, "nano-s", None)
    keep_review(settings, 3, review)
    line = review.lines[0]
    answer = call(app, "3/right", {"label": line.key, "reason": line.reason})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == f"said to be right, on task {line.task}: {line.why}"
    (kept,) = store.right_labels(3)
    assert kept.who.endswith(", by a call")
    assert call(app, "3/doubt-again", {"label": line.key}).status_code == 200
    assert store.right_labels(3) == []
    assert call(app, "3/right", {"label": line.key, "reason": "mask"}).status_code == 400
    assert call(app, "3/right", {"label": "1/none"}).status_code == 400, "nothing to try again later"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("3/accept", {}),
        ("3/accept", {"iou": 0.8}),
        ("3/accept", {"iou": 1.5, "risk": 0.1}),
        ("3/accept", {"iou": 0.8, "risk": 0.1, "confidense": 0.99}),
        ("3/accept", {"iou": "NaN", "risk": 0.1}),
        ("3/accept", {"iou": 0.8, "risk": 0.1, "per_image": 0}),
        ("3/rollback", {}),
        ("3/train", {"now": True}),
        ("3/take-back", []),
    ],
)
def test_what_is_not_meant_is_refused_with_a_sentence(app: FastAPI, queue: PageQueue, path: str, body: Any) -> None:
    answer = call(app, path, body)
    assert answer.status_code == 400
    assert answer.json()["expected"]
    assert queue.jobs == []


def test_without_json_its_password_or_its_project_nothing_is_done(app: FastAPI, queue: PageQueue, store: Store) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    json_body = {"Content-Type": "application/json"}
    for headers, status in (
        ({}, 415),
        (form, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({**json_body, "Origin": "https://evil.example"}, 403),
        ({**json_body, "Host": "evil.example"}, 421),
    ):
        for action in CALLS:
            assert call(app, f"3/{action}", b"{}", **headers).status_code == status
    assert call(app, "3/train", {}, auth=None).status_code == 401
    assert call(app, "3/acceptance", auth=None).status_code == 401
    for project in ("99", "x", "9" * 30):
        assert call(app, f"{project}/train", {}).status_code == 404
        assert call(app, f"{project}/acceptance").status_code == 404
    assert (queue.jobs, store.waiting_acceptance(3)) == ([], None)


def test_a_lost_redis_is_told(app: FastAPI, queue: PageQueue) -> None:
    queue.lost = True
    answer = call(app, "3/train", {})
    assert answer.status_code == 503
    assert answer.json()["remedy"] == "start Redis"
    kept = call(app, "3/take-back", {})
    assert kept.status_code == 200
    assert "waits for Redis" in kept.json()["outcome"]
