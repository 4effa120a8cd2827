"""The page of labels worth a second look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from backend.inference.engine import Engine
from backend.learning.review import FOLDER, keep_review, review_project
from backend.settings import Settings
from backend.store import Store
from backend.web.app import create_app
from backend.web.dashboard import review as module
from backend.web.dashboard.review import review_page
from tests.backend.learning.reviewed import fill
from tests.backend.web.dashboard.reading import Text, ask


@pytest.fixture
def app(settings: Settings, store: Store) -> Iterator[FastAPI]:
    with Engine(settings) as engine:
        made = create_app(settings, engine, store)
        yield made
        made.state.service.close()


def test_each_doubt_has_a_picture_a_box_a_sentence_and_a_link(app: FastAPI, settings: Settings, store: Store) -> None:
    answer = ask(app, "/projects/3/review")
    assert answer.status_code == 200
    assert "usam-backend review --project 3" in Text(answer.text)
    fill(store, 3)
    keep_review(settings, 3, review_project(store, 3, "nano-s", None))
    text = ask(app, "/projects/3/review").text
    page = Text(text)
    assert "labelled dog, looks like cat" in page
    assert "nobody marked what looks like a dog" in page
    assert "<b>" not in text
    assert "style=" not in text, "the content policy would not let it through"
    links = [one.get("href", "") for one in page.all("a")]
    assert "http://labels.example:8080/projects/3/data?task=6" in links
    pictures = [one["src"] for one in page.all("img")]
    assert pictures[0].startswith("tasks/")
    boxes = [one for one in page.all("rect") if one.get("class") != "under"]
    assert len(boxes) == len(pictures)
    assert all(0 <= float(one["x"]) <= 100 and float(one["width"]) > 0 for one in boxes)
    assert any(one.get("class") == "missing" for one in boxes)


def test_it_is_filtered_by_reason_and_bounded(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    keep_review(settings, 3, review_project(store, 3, "nano-s", None))
    every = review_page(settings, store, 3, {})
    only = review_page(settings, store, 3, {"reason": "not marked"})
    assert only.total < every.total
    assert all(tile.is_missing for tile in only.tiles)
    assert [choice.text for choice in only.choices if choice.chosen] == ["Not marked"]
    assert review_page(settings, store, 3, {"reason": "<b>"}).total == every.total
    monkeypatch.setattr(module, "SHOWN", 1)
    assert len(review_page(settings, store, 3, {}).tiles) == 1


def test_a_damaged_list_is_a_sentence(app: FastAPI, settings: Settings) -> None:
    (settings.data_dir / FOLDER).mkdir()
    (settings.data_dir / FOLDER / "3.json").write_text("{")
    answer = ask(app, "/projects/3/review")
    assert answer.status_code == 503
    assert "usam-backend review --project 3" in Text(answer.text)
    assert ask(app, "/projects/99/review").status_code == 404
