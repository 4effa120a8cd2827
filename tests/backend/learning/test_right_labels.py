"""A doubted label that a person says is right leaves the list, also the next one, until its annotation changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.errors import RegionError
from backend.label_studio.records import Annotation
from backend.learning.review import Review, keep_review, review_project
from backend.learning.right_labels import doubt_again, say_right, split
from backend.settings import Settings
from backend.store import Store
from tests.backend.learning.reviewed import settings, store

__all__ = ["settings", "store"]


@pytest.fixture
def review(settings: Settings, store: Store) -> Review:
    found = review_project(store, 3, "nano-s", None)
    keep_review(settings, 3, found)
    return found


def test_what_is_right_leaves_this_list_and_the_next(settings: Settings, store: Store, review: Review) -> None:
    wrong = review.first(1, "label").lines[0]
    assert wrong.key == f"{wrong.annotation}/{wrong.region}"
    assert say_right(settings, store, 3, wrong.key, "", "ann") == [
        line for line in review.lines if line.key == wrong.key
    ]
    for current in (review, review_project(store, 3, "nano-s", None)):
        doubted, right = split(store, 3, current)
        assert wrong.key not in {line.key for line in doubted.lines}
        assert {line.key for line in right.lines} == {wrong.key}
        assert len(doubted.lines) + len(right.lines) == len(current.lines)
    doubt_again(settings, store, 3, wrong.key, "label")
    assert split(store, 3, review)[0].lines[0] in review.lines
    assert wrong in split(store, 3, review)[0].lines


def test_one_reason_alone_can_be_meant(settings: Settings, store: Store, review: Review) -> None:
    line = review.first(1, "label").lines[0]
    twice = replace(review, lines=(line, replace(line, reason="outline", why="the outline")))
    keep_review(settings, 3, twice)
    say_right(settings, store, 3, line.key, "outline", "ann")
    doubted, right = split(store, 3, twice)
    assert [one.reason for one in doubted.lines] == ["label"]
    assert [one.reason for one in right.lines] == ["outline"]


def test_what_nobody_marked_is_known_by_its_box(settings: Settings, store: Store, review: Review) -> None:
    gone = review.first(1, "not marked").lines[0]
    assert gone.key.startswith(f"{gone.annotation}/@")
    say_right(settings, store, 3, gone.key, "", "ann")
    x0, y0, x1, y1 = gone.box
    near = replace(gone, box=(x0, y0, x1, y1 - 0.1 * (y1 - y0)))
    far = replace(gone, box=(x1, y1, 2 * x1 - x0, 2 * y1 - y0))
    doubted, right = split(store, 3, replace(review, lines=(gone, near, far)))
    assert right.lines == (gone, near), "a new proposal of the same object is no new doubt"
    assert doubted.lines == (far,)
    keep_review(settings, 3, replace(review, lines=(near,)))
    doubt_again(settings, store, 3, near.key, "")
    assert split(store, 3, replace(review, lines=(gone, near)))[1].lines == ()


def test_it_comes_back_when_the_annotation_changes(settings: Settings, store: Store, review: Review) -> None:
    wrong = review.first(1, "label").lines[0]
    say_right(settings, store, 3, wrong.key, "", "ann")
    changed = Annotation(wrong.annotation, wrong.task, "t2", [{"id": "new", "type": "brush", "value": {}}])
    store.record_annotation(3, changed, [], sampled_for="k")
    assert wrong in split(store, 3, review)[0].lines


@pytest.mark.parametrize(("key", "reason"), [("1/nothing", ""), ("x", ""), ("", ""), ("\ud800/\0", "")])
def test_a_label_that_is_not_listed_is_a_sentence(
    settings: Settings, store: Store, review: Review, key: str, reason: str
) -> None:
    with pytest.raises(RegionError, match="usam-backend review --project 3"):
        say_right(settings, store, 3, key, reason, "ann")
    with pytest.raises(RegionError, match="a reason out of"):
        say_right(settings, store, 3, review.lines[0].key, "mask", "ann")
    assert store.right_labels(3) == []


def test_without_a_list_nothing_is_right(settings: Settings, store: Store) -> None:
    with pytest.raises(RegionError, match="ANNOTATION/REGION"):
        say_right(settings, store, 3, "1/r", "", "ann")
