"""Forms of the page: asked about first, taken only from our own pages, and what came of them is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from backend.inference.engine import Engine
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.web.app import create_app
from tests.backend.web.dashboard.reading import Text, ask
from tests.backend.web.dashboard.test_trust import record
from tests.factories import PageQueue, head_set

HOME = {"Origin": "http://127.0.0.1:9090"}
OLD = head_set(1).version


@pytest.fixture
def app(settings: Settings, store: Store, registry: Registry, queue: PageQueue, engine: Engine) -> Iterator[FastAPI]:
    made = create_app(settings, engine, store, queue, registry)  # type: ignore[arg-type]
    yield made
    made.state.service.close()


def form_of(page: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in Text(page).all("input")}


def test_the_page_links_to_what_can_be_done(app: FastAPI) -> None:
    page = Text(ask(app, "/projects/3/versions").text)
    assert f"confirm/rollback?version={OLD}" in page.links
    assert {"confirm/train", "confirm/rank", "confirm/rollback?version=base"} <= set(page.links)
    assert [form["method"] for form in page.all("form")] == ["get"], "nothing is done at the first click"


def test_a_roll_back_is_asked_about_and_done(app: FastAPI, registry: Registry, queue: PageQueue) -> None:
    asked = ask(app, f"/projects/3/confirm/rollback?version={OLD}")
    assert asked.headers["referrer-policy"] == "same-origin", "else browsers send the form with no origin"
    question = asked.text
    assert f"Roll back to {OLD}" in Text(question)
    assert registry.champion(3) == head_set(2).version
    answer = ask(app, "/projects/3/rollback", method="POST", headers=HOME, form=form_of(question))
    assert (answer.status_code, answer.headers["location"]) == (303, "versions")
    assert registry.champion(3) == OLD
    assert queue.jobs == [(3, "score_pool")]
    page = Text(ask(app, "/projects/3/versions").text)
    assert f"Roll back to {OLD} by somebody at this machine" in page


@pytest.mark.parametrize(("action", "job"), [("train", "retrain"), ("rank", "score_pool")])
def test_jobs_are_asked_for(app: FastAPI, queue: PageQueue, action: str, job: str) -> None:
    form = form_of(ask(app, f"/projects/3/confirm/{action}").text)
    assert ask(app, f"/projects/3/{action}", method="POST", headers=HOME, form=form).status_code == 303
    assert queue.jobs == [(3, job)]


def test_masks_are_accepted_at_what_the_sliders_show(app: FastAPI, queue: PageQueue, store: Store) -> None:
    trust = Text(ask(app, "/projects/3/trust?iou=0.7&risk=0.2&confidence=0.8").text)
    (link,) = [link for link in trust.links if link.startswith("confirm/accept")]
    assert "confirm/take-back" not in trust.links, "nothing is accepted"
    question = ask(app, f"/projects/3/{link}").text
    for words in ("at most 20%", "IoU 0.7", "confidence 80%", "Nobody's annotation is changed", "Accept masks"):
        assert words in Text(question), words
    assert store.waiting_acceptance(3) is None, "nothing is done before it is confirmed"
    answer = ask(app, "/projects/3/accept", method="POST", headers=HOME, form=form_of(question))
    assert (answer.status_code, answer.headers["location"]) == (303, "trust")
    waiting = store.waiting_acceptance(3)
    assert waiting is not None
    assert (waiting.iou, waiting.risk, waiting.confidence, waiting.per_image) == (0.7, 0.2, 0.8, 3)
    assert queue.jobs == [(3, "pseudo_label")]
    shown = Text(ask(app, "/projects/3/trust").text)
    assert "IoU 0.7 for all but 20%" in shown
    assert "by somebody at this machine" in shown
    assert "Waits for a worker." in shown
    store.end_acceptance(waiting.id, "refused", "expected audits, got 2; label 10 more audit tasks", 10)
    assert "the promise cannot be kept yet. Label 10 more audit tasks first" in Text(ask(app, "/projects/3/trust").text)


def test_a_promise_that_was_changed_on_the_way_is_not_taken(app: FastAPI, queue: PageQueue, store: Store) -> None:
    form = form_of(ask(app, "/projects/3/confirm/accept?iou=0.9&risk=0.05").text)
    answer = ask(app, "/projects/3/accept", method="POST", headers=HOME, form={**form, "risk": "0.3"})
    assert answer.status_code == 403
    assert (queue.jobs, store.waiting_acceptance(3)) == ([], None)


def test_masks_are_taken_back_after_a_question(
    app: FastAPI, queue: PageQueue, store: Store, settings: Settings
) -> None:
    PseudoLabelStore.of(settings).put(3, record())
    assert "confirm/take-back" in Text(ask(app, "/projects/3/trust").text).links
    question = ask(app, "/projects/3/confirm/take-back").text
    assert "2 masks on 1 tasks, as v.pseudo-9" in Text(question)
    assert "trust" in [link.rpartition("/")[2] for link in Text(question).links], "the way back"
    answer = ask(app, "/projects/3/take-back", method="POST", headers=HOME, form=form_of(question))
    assert (answer.status_code, answer.headers["location"]) == (303, "trust")
    waiting = store.waiting_acceptance(3)
    assert waiting is not None
    assert waiting.action == "take-back"
    run = store.start_run(3, "pseudo_label")
    store.update_run(run, done=3, total=12)
    shown = ask(app, "/projects/3/trust").text
    assert "Being done now: 3 of 12." in Text(shown)
    assert Text(shown).all("progress")[0]["value"] == "0.250"
    assert "Take masks back by somebody at this machine" in Text(ask(app, "/projects/3/versions").text)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9091"}],
)
def test_another_sites_page_can_do_nothing(app: FastAPI, queue: PageQueue, headers: dict[str, str]) -> None:
    form = form_of(ask(app, "/projects/3/confirm/train").text)
    assert ask(app, "/projects/3/train", method="POST", headers=headers, form=form).status_code == 403
    assert queue.jobs == []


def test_a_form_without_its_own_token_does_nothing(app: FastAPI, queue: PageQueue, registry: Registry) -> None:
    train = form_of(ask(app, "/projects/3/confirm/train").text)
    for action, form in (("train", {}), ("train", {"token": "x"}), ("rank", train), ("rollback", train)):
        answer = ask(app, f"/projects/3/{action}", method="POST", headers=HOME, form=form)
        assert answer.status_code == 403
        assert "out of date" in Text(answer.text)
    for path in ("/projects/3/rank", "/projects/3/rollback", f"/projects/3/confirm/rollback?version={OLD}"):
        ask(app, path)
    assert queue.jobs == []
    assert registry.champion(3) == head_set(2).version, "a link alone does nothing"


def test_what_cannot_be_done_is_a_sentence(app: FastAPI, queue: PageQueue) -> None:
    queue.lost = True
    form = form_of(ask(app, "/projects/3/confirm/train").text)
    answer = ask(app, "/projects/3/train", method="POST", headers=HOME, form=form)
    assert answer.status_code == 503
    assert "start Redis" in Text(answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/projects/3/confirm/rollback",
        "/projects/3/confirm/rollback?version=nothing",
        f"/projects/3/confirm/rollback?version={head_set(2).version}",
        "/projects/3/confirm/explode",
        "/projects/99/confirm/train",
        "/projects/99/versions",
    ],
)
def test_an_address_that_names_nothing_is_a_sentence(app: FastAPI, path: str) -> None:
    answer = ask(app, path)
    assert answer.status_code == 404
    assert "No such" in Text(answer.text)


@pytest.mark.parametrize("path", ["/projects/99/train", "/projects/3/queue", "/projects/x/rollback"])
def test_a_form_to_nowhere_is_a_sentence(app: FastAPI, path: str) -> None:
    answer = ask(app, path, method="POST", headers=HOME, form={"token": "x"})
    assert answer.status_code == 404


def test_who_did_it_is_the_user_of_the_password(
    guarded: Settings, store: Store, registry: Registry, queue: PageQueue, engine: Engine
) -> None:
    app = create_app(guarded, engine, store, queue, registry)  # type: ignore[arg-type]
    ann = ("ann", "secret")
    form = form_of(ask(app, f"/projects/3/confirm/rollback?version={OLD}", auth=ann).text)
    assert ask(app, "/projects/3/rollback", method="POST", headers=HOME, form=form).status_code == 401
    assert ask(app, "/projects/3/rollback", method="POST", headers=HOME, form=form, auth=ann).status_code == 303
    assert registry.history(3)[-1].reason.startswith("asked for by ann from ")
    app.state.service.close()
