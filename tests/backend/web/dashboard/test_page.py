"""The web page: what it says, that it escapes all of it, and to whom it is shown."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from backend.inference.engine import Engine
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.app import create_app
from backend.web.dashboard.page import render
from backend.web.dashboard.view import BASE_HEADS, View, gather
from tests.factories import head_set


class Text(HTMLParser):
    """Tags and texts of a page; fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def __contains__(self, words: str) -> bool:
        return words in " ".join(self.words)


def get(app: FastAPI, accept: str, auth: tuple[str, str] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", auth=auth) as client:
            return await client.get("/", headers={"Accept": accept})

    return asyncio.run(ask())


def test_it_says_what_is_asked_first_and_why(settings: Settings, store: Store) -> None:
    text = Text(render(gather(settings, "ready", store, Registry(settings.registry_dir))))
    assert "b c.png" in text
    assert "why <script>" in text
    assert "score_pool" in text
    assert "not surely better" in text
    assert "nano-s+0123456789ab.7" in text
    assert "http://labels.example:8080/projects/3/data?task=1" in text.links


def test_it_shows_progress_and_versions(settings: Settings, store: Store) -> None:
    registry = Registry(settings.registry_dir)
    figures = {"champion_error": 0.0412, "candidate_error": 0.0123, "method": "audit"}
    version = registry.publish(3, head_set(), parent="", samples=40, labels=["1@t"], figures=figures)
    registry.promote(3, version.version, "better")
    page = render(gather(settings, "loading", store, registry))
    assert 'value="0.250"' in page
    text = Text(page)
    assert "in use" in text
    assert "error 0.0123 against 0.0412 by audit" in text
    assert "engine loading" in text


def test_nothing_from_outside_becomes_markup(settings: Settings, store: Store) -> None:
    text = Text(render(gather(settings, "ready", store, None)))
    assert "script" not in text.tags
    assert "alert(1)" in text


def test_without_projects_it_says_how_to_connect_one() -> None:
    assert "usam-backend connect" in Text(render(View("nano-m", "ready", ())))


def test_a_browser_gets_the_page_and_a_program_the_state(settings: Settings, store: Store) -> None:
    with Engine(settings) as engine:
        app = create_app(settings, engine, store)
        answer = get(app, "text/html,*/*")
        assert "project 3" in Text(answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert get(app, "application/json").json()["status"] == "UP"
        app.state.service.close()


def test_it_asks_for_the_password(settings: Settings, store: Store) -> None:
    guarded = settings.model_copy(update={"auth_user": "ann", "auth_password": SecretStr("secret")})
    with Engine(guarded) as engine:
        app = create_app(guarded, engine, store)
        refused = get(app, "text/html")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert get(app, "text/html", auth=("ann", "secret")).status_code == 200
        app.state.service.close()


def test_one_projects_damaged_pointer_leaves_the_page_to_the_others(settings: Settings, store: Store) -> None:
    store.join(4)
    folder = settings.registry_dir / "4"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("{")
    page = Text(render(gather(settings, "ready", store, Registry(settings.registry_dir))))
    assert "usam-backend repair" in page
    assert f"heads {BASE_HEADS}" in " ".join(" ".join(page.words).split()), "project 3 is as it was"
