"""The parts behind the pages: counted once for all who look, and one project's damage is not the others'."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from backend.image_fetcher import ImageFetcher
from backend.label_studio.records import Project
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.dashboard import board as module
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.surroundings import Seen
from backend.web.journal import ASIDE


class EngineStandIn:
    state, checkpoint = "ready", "nano-s"


@pytest.fixture
def board(settings: Settings, store: Store) -> Iterator[Dashboard]:
    made = Dashboard(settings, EngineStandIn(), ImageFetcher(settings), store, None, Registry(settings.registry_dir))  # type: ignore[arg-type]
    yield made
    made.close()


def test_the_overview_has_a_card_for_each_project(board: Dashboard, store: Store) -> None:
    store.join(4)
    overview = board.overview()
    assert [card.number for card in overview.cards] == [3, 4]
    assert (overview.cards[0].tasks, overview.cards[0].left) == (5, 4)
    assert [line.job for line in overview.cards[0].running] == ["Ranking"]
    assert overview.summary.startswith("2 projects, 1 of 5 tasks labelled")
    assert overview.troubles == ()


def test_it_is_counted_once_however_many_look(board: Dashboard, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERVIEW_KEPT_S", 60.0)
    first = board.overview()
    store.join(4)
    assert board.overview() is first
    monkeypatch.setattr(module, "OVERVIEW_KEPT_S", -1.0)
    assert len(board.overview().cards) == 2


def test_one_projects_damage_leaves_the_others(board: Dashboard, store: Store, settings: Settings) -> None:
    store.join(4)
    (settings.registry_dir / "4").mkdir(parents=True)
    (settings.registry_dir / "4" / "champion.json").write_text("{")
    third, fourth = board.overview().cards
    assert third.notices == ()
    assert "repair" in fourth.notices[0].remedy


def test_a_record_that_cannot_be_read_is_said(board: Dashboard, settings: Settings) -> None:
    folder = settings.data_dir / "pseudo_labels" / "3" / "7"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    record, trouble = board.promise(3)
    assert record is None
    assert "record.json" in trouble
    assert "record.json" in board.overview().cards[0].notices[0].text


def test_a_record_is_read_again_only_where_it_changed(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def standing(project: int) -> Any:
        reads.append(project)

    monkeypatch.setattr(board._promises, "standing", standing)
    for _ in range(3):
        assert board.promise(3) == (None, "")
    assert reads == [3]
    folder = board.settings.data_dir / "pseudo_labels" / "3" / "7"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    board.promise(3)
    assert reads == [3, 3]


def test_events_that_were_set_aside_are_said(board: Dashboard, settings: Settings) -> None:
    (settings.data_dir / "inbox").mkdir()
    (settings.data_dir / "inbox" / ASIDE).write_text(json.dumps({"reason": "x"}))
    assert "set aside" in board.overview().troubles[0].text


def test_without_a_store_there_is_a_page_too(settings: Settings) -> None:
    board = Dashboard(settings, EngineStandIn(), ImageFetcher(settings), None, None, None)  # type: ignore[arg-type]
    assert board.overview().cards == ()
    assert board.known_projects() == []
    board.close()


def test_a_crowd_of_pictures_is_told_to_wait(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWINGS_WAITING", 0)
    picture = asyncio.run(board.picture(3, 1))
    assert picture is not None
    assert picture.failed
    assert b"Many pictures" in picture.content


def test_the_labelling_configuration_is_label_studios(board: Dashboard) -> None:
    assert board.label_config(3) == ""
    board.surroundings._seen = Seen({3: Project(3, "Cats", "<View/>", "", "", "2026")})
    assert (board.label_config(3), board.title(3)) == ("<View/>", "Cats")
