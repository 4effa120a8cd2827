"""The queue's page: tasks in served order, the reason for each, filters that find what they name."""

from __future__ import annotations

from typing import Any

import pytest

from backend.settings import Settings
from backend.store import Store
from backend.store.overview import UNUSABLE
from backend.store.records import ScoreRow
from backend.web.dashboard import queue as module
from backend.web.dashboard.queue import (
    AUDIT,
    Filters,
    QueuePage,
    ReasonKinds,
    doubts_of,
    picture_name,
    queue_page,
    reason_line,
)
from tests.backend.web.conftest import HOSTILE


def page(settings: Settings, store: Store, **asked: str) -> QueuePage:
    return queue_page(settings, store, ReasonKinds(store).of(3), 3, asked)


def test_tasks_stand_in_served_order_with_the_reason(settings: Settings, store: Store) -> None:
    found = page(settings, store)
    assert [tile.task for tile in found.tiles] == [1, 2, 3, 4]
    assert [tile.rank for tile in found.tiles] == [1, 2, 3, 4]
    assert [tile.picture for tile in found.tiles] == ["a.png", "b c.png", "script>&\"'.png", ""]
    assert found.tiles[0].reason == f"why {HOSTILE}"
    assert found.tiles[1].reason == AUDIT
    assert found.tiles[0].link == "http://labels.example:8080/projects/3/data?task=1"
    assert (found.total, found.earlier, found.later) == (4, "", "")


def test_how_far_the_first_ranking_is_stands_where_its_tasks_will(settings: Settings, store: Store) -> None:
    store.join(9)
    empty = queue_page(settings, store, Filters((), {}), 9, {})
    assert (empty.ranked, empty.progress) == (False, "")
    run = store.start_run(9, "score_pool", total=48)
    store.update_run(run, done=43)
    assert queue_page(settings, store, Filters((), {}), 9, {}).progress == "43 of 48 pictures looked at"
    assert page(settings, store).progress == ""


def test_bars_are_explained_that_are_there(settings: Settings, store: Store) -> None:
    store.put_scores(3, [ScoreRow(1, "v", 1.0, 0.5, 0, False, "task gap 0.10 on its 3 most doubtful of 9 objects")])
    assert list(page(settings, store).meanings) == ["task gap"]


def test_it_has_pages(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_PAGE", 2)
    first, second = page(settings, store), page(settings, store, page="2")
    assert ([tile.task for tile in first.tiles], first.earlier, first.later) == ([1, 2], "", "?page=2")
    assert ([tile.task for tile in second.tiles], second.earlier, second.later) == ([3, 4], "?", "")
    assert second.first == second.tiles[0].rank == 3
    assert page(settings, store, page="99").tiles == ()


@pytest.mark.parametrize("asked", [{"page": "x"}, {"page": "-1"}, {"page": "9" * 30}, {"page": "0"}, {"show": "?"}])
def test_an_address_that_means_nothing_shows_the_beginning(
    settings: Settings, store: Store, asked: dict[str, str]
) -> None:
    assert page(settings, store, **asked).tiles == page(settings, store).tiles


def test_it_is_filtered_by_audit_and_by_reason(settings: Settings, store: Store) -> None:
    store.put_scores(
        3,
        [
            ScoreRow(1, "v", 0.2, 0.2, 0, False, "task gap 0.20 on its 3 most doubtful of 4 objects"),
            ScoreRow(2, "v", 0.1, 0.4, 1, True, "task gap 0.10 on its 3 most doubtful of 9 objects"),
            ScoreRow(3, "v", 0.0, 0.6, 2, False, "nothing found in it"),
            ScoreRow(4, "v", UNUSABLE, 0.8, 3, False, "no such file"),
        ],
    )
    assert [(tile.task, tile.rank) for tile in page(settings, store, show="audits").tiles] == [(2, 0)]
    (broken,) = page(settings, store, show="unusable").tiles
    assert (broken.task, broken.is_unusable, broken.reason, broken.doubts) == (4, True, "no such file", ())
    by_reason = page(settings, store, reason="task gap")
    assert [tile.task for tile in by_reason.tiles] == [1, 2]
    assert [(choice.text, choice.count) for choice in by_reason.choices if choice.chosen] == [("task gap", 2)]
    assert page(settings, store, reason="gone since").total == 4, "a kind that is no more filters nothing"


def test_kinds_of_reasons_are_read_again_with_a_new_ranking(store: Store) -> None:
    kinds = ReasonKinds(store)
    assert len(kinds.of(3).kinds) == 1
    store.put_scores(3, [ScoreRow(1, "w", 0, 1, 0, False, "a"), ScoreRow(2, "w", 0, 1, 1, False, "b")])
    assert len(kinds.of(3).kinds) == 1, "kept for a while"
    store.set_served(3, "w")
    assert len(kinds.of(3).kinds) == 2


@pytest.mark.parametrize(
    ("reason", "shares"),
    [
        ("task gap 0.25 and model gap 0.50 on its 3 most doubtful of 9 objects", {"task gap": 0.5, "model gap": 1.0}),
        ("samscore 0.80 on its 1 most doubtful of 1 objects", {"samscore": 0.8}),
        ("entropy 3.20 on its 1", {}),
        ("nothing found in it", {}),
        ("", {}),
    ],
)
def test_figures_of_a_reason_become_bars(reason: str, shares: dict[str, float]) -> None:
    assert {doubt.name: doubt.share for doubt in doubts_of(reason)} == shares


def test_a_reason_is_said_whole_where_a_figure_of_it_is_no_bar() -> None:
    reason = "entropy 3.20 on its 1 most doubtful"
    assert reason_line(reason, doubts_of(reason)) == reason


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({}, ""),
        ({"n": 3}, ""),
        ({"image": "https://x/y/z.png?sign=1"}, "z.png"),
        ({"image": "a/" + "b" * 200}, "b" * 80),
    ],
)
def test_a_picture_has_a_name(data: dict[str, Any], name: str) -> None:
    assert picture_name(data) == name


def test_what_was_never_ranked_says_so(settings: Settings, store: Store) -> None:
    store.join(5)
    assert not queue_page(settings, store, Filters((), {}), 5, {}).ranked
    assert page(settings, store).ranked


def test_the_queue_can_be_filtered_by_what_is_shown_on_a_task(settings: Settings, store: Store) -> None:
    labels = {1: ["Cat"], 2: ["Cat", "100 %"], 3: ['a "Cat"', "100 x"], 4: []}
    rows = [ScoreRow(n, "v2", 1.0, n / 9, n, n == 2, "why", labels=names) for n, names in labels.items()]
    store.put_scores(3, rows)
    store.set_served(3, "v2")
    chosen = {choice.text: choice for choice in page(settings, store).choices if choice.is_label}
    assert {text: choice.count for text, choice in chosen.items()} == {"Cat": 2, "100 %": 1, "100 x": 1, 'a "Cat"': 1}
    found = page(settings, store, label="Cat")
    assert ([tile.task for tile in found.tiles], found.total) == ([1, 2], 2)
    assert [tile.task for tile in page(settings, store, label="100 %").tiles] == [2]
    assert [tile.task for tile in page(settings, store, label="Cat", show="audits").tiles] == [2]
    assert page(settings, store, label="no such label").total == 4
    assert found.tiles[0].closer == "tasks/1?label=Cat"
    (cat,) = [choice for choice in found.choices if choice.chosen]
    assert (cat.text, cat.query) == ("Cat", "?"), "chosen again, it is let go"
