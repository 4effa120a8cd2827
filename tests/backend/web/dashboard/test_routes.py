"""Which address shows what, to whom; and what stands there instead of a broken page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sql
from fastapi import FastAPI
from pydantic import SecretStr

from backend.inference.engine import Engine
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.app import create_app
from backend.web.dashboard.rendering import assets
from tests.backend.web.dashboard.reading import Text, ask


@pytest.fixture
def app(settings: Settings, store: Store) -> Iterator[FastAPI]:
    with Engine(settings) as engine:
        made = create_app(settings, engine, store, registry=Registry(settings.registry_dir))
        yield made
        made.state.service.close()


def test_a_browser_gets_the_overview_and_a_program_the_state(app: FastAPI) -> None:
    answer = ask(app)
    assert "Project 3" in Text(answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "same-origin"
    assert ask(app, headers={"Accept": "application/json"}).json()["status"] == "UP"


def test_only_what_has_changed_is_sent_again(app: FastAPI, store: Store) -> None:
    page = Text(ask(app).text)
    again = "/" + next(one["hx-get"] for one in page.all("div") if "hx-get" in one)
    live = {"Accept": "*/*", "HX-Request": "true"}
    answer = ask(app, again, headers=live)
    assert answer.headers["hx-reswap"] == "none"
    assert 'id="live"' not in answer.text
    assert 'id="beat"' in answer.text
    store.join(4)
    app.state.service.board._overview = None
    answer = ask(app, again, headers=live)
    assert "hx-reswap" not in answer.headers
    assert "Project 4" in Text(answer.text)
    assert "<html" not in answer.text


def test_it_asks_for_the_password_at_every_address(settings: Settings, store: Store) -> None:
    guarded = settings.model_copy(update={"auth_user": "ann", "auth_password": SecretStr("secret")})
    with Engine(guarded) as engine:
        app = create_app(guarded, engine, store)
        for path in ("/", f"/static/{assets()['page.css'].name}"):
            refused = ask(app, path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic")
            assert ask(app, path, auth=("ann", "secret")).status_code == 200
        app.state.service.close()


def test_files_of_the_pages_may_be_kept_by_browsers(app: FastAPI) -> None:
    answer = ask(app, f"/static/{assets()['page.css'].name}")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")
    missing = ask(app, "/static/page.css")
    assert missing.status_code == 404
    assert "Not found" in Text(missing.text)


def test_a_store_that_does_not_answer_is_a_sentence(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise sql.exc.OperationalError("SELECT 1", {}, Exception("secret"))

    monkeypatch.setattr(app.state.service.board.store, "overviews", lost)
    answer = ask(app)
    assert answer.status_code == 503
    assert "cannot be shown now" in Text(answer.text)
    assert "secret" not in answer.text


def test_without_projects_it_says_how_to_connect_one(settings: Settings) -> None:
    with Engine(settings) as engine:
        app = create_app(settings, engine)
        assert "usam-backend connect" in Text(ask(app).text)
        app.state.service.close()
