"""The page of labels worth a second look."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from backend.learning.review import FOLDER, keep_review, review_project
from backend.settings import Settings
from backend.store import Store
from backend.web.dashboard import review as module
from backend.web.dashboard.review import review_page
from tests.backend.learning.reviewed import fill
from tests.backend.web.dashboard.reading import Text, ask
from tests.backend.web.dashboard.test_forms import HOME


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
    assert answer.status_code == 200
    assert "usam-backend review --project 3" in Text(answer.text)
    assert ask(app, "/projects/99/review").status_code == 404


def test_a_label_that_is_right_leaves_the_page_and_comes_back_when_asked(
    app: FastAPI, settings: Settings, store: Store
) -> None:
    fill(store, 3)
    keep_review(settings, 3, review_project(store, 3, "nano-s", None))
    answer = ask(app, "/projects/3/review?reason=label")
    assert answer.headers["referrer-policy"] == "same-origin", "else browsers send the form with no origin"
    before = review_page(settings, store, 3, {})
    form = first_form(answer.text)
    done = ask(app, "/projects/3/right", method="POST", headers=HOME, form=form)
    assert (done.status_code, done.headers["location"]) == (303, "review?reason=label")
    page = review_page(settings, store, 3, {})
    assert page.total == before.total - 1
    assert form["label"] not in {tile.key for tile in page.tiles if tile.reason == form["reason"]}
    assert page.choices[-1].text == "Said to be right"
    assert "It is right by somebody at this machine (no password is set): said to be right, on task" in Text(
        ask(app, "/projects/3/versions").text
    )
    right = ask(app, "/projects/3/review?reason=right").text
    assert "Doubt it again" in Text(right)
    back = first_form(right)
    assert (back["label"], back["reason"]) == (form["label"], form["reason"])
    assert ask(app, "/projects/3/doubt-again", method="POST", headers=HOME, form=back).status_code == 303
    assert review_page(settings, store, 3, {}) == before


def test_a_form_of_another_label_or_page_is_not_taken(app: FastAPI, settings: Settings, store: Store) -> None:
    fill(store, 3)
    keep_review(settings, 3, review_project(store, 3, "nano-s", None))
    page = review_page(settings, store, 3, {})
    form = first_form(ask(app, "/projects/3/review").text)
    other = {**form, "label": page.tiles[1].key, "reason": page.tiles[1].reason}
    assert ask(app, "/projects/3/right", method="POST", headers=HOME, form=other).status_code == 403
    assert ask(app, "/projects/3/doubt-again", method="POST", headers=HOME, form=form).status_code == 403
    evil = {"Origin": "https://evil.example"}
    assert ask(app, "/projects/3/right", method="POST", headers=evil, form=form).status_code == 403
    assert ask(app, "/projects/3/confirm/right").status_code == 404
    assert store.right_labels(3) == []


def first_form(page: str) -> dict[str, str]:
    """The fields of the first form that is posted."""
    fields = [one for one in Text(page).all("input") if one.get("type") == "hidden"]
    return {one["name"]: one["value"] for one in fields[:4]}
