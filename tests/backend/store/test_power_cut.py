"""A power cut at any moment leaves the state before or after; what was confirmed is there. See docs/durability.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sql

from backend.local.label_studio_server import Account
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.kept_twice import read_either
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.web.journal import EventNote, Journal
from tests.backend.store.test_pseudo_label_store import run_record
from tests.factories import head_set
from tests.power_cut import Cut, watched

NORMAL, FULL = 1, 2
"""SQLite's words for `synchronous`."""


def at_every_cut(cuts: Sequence[Cut], folder: Path, look: Callable[[Path], object]) -> list[object]:
    """What `look` finds after a cut at each moment, in both ways in which a file system may lose things."""
    return [
        look(cut.after_cut(folder / f"{number}-{survive}", names_survive=survive))
        for number, cut in enumerate(cuts)
        for survive in (False, True)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_the_disk_of_these_tests_keeps_only_what_it_was_told_to(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(data, monkeypatch) as disk:
        (data / "a").write_text("never told")
        with (data / "b").open("w") as file:
            file.write("told")
            file.flush()
            os.fsync(file.fileno())
            file.write(" more")
    assert list(disk.cuts[-1].after_cut(data.parent / "strict").iterdir()) == [], "no name was kept"
    loose = disk.cuts[-1].after_cut(data.parent / "loose", names_survive=True)
    assert {path.name: path.read_text() for path in loose.iterdir()} == {"a": "", "b": "told"}


def test_heads_are_those_before_or_after(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(data / "heads")
    first, second = head_set(0), head_set(1)

    def champion(folder: Path) -> str:
        left = Registry(folder / "heads")
        name = left.champion(3)
        if name:
            left.load(3, name)
        return name

    with watched(data, monkeypatch) as disk:
        for heads in (first, second):
            registry.publish(3, heads)
            registry.promote(3, heads.version)
            assert champion(disk.cut().after_cut(data.parent / heads.version)) == heads.version
        registry.rollback(3)
        registry.set_aside(3, second.version)
    found = at_every_cut(disk.cuts, data.parent / "cuts", champion)
    assert set(found) == {"", first.version, second.version}
    assert found[-2:] == [first.version, first.version]


def test_a_record_of_accepted_masks_is_there_before_label_studio_hears_of_them(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = PseudoLabelStore(data / "pseudo_labels")

    def states(folder: Path) -> object:
        return [record.state for record in PseudoLabelStore(folder / "pseudo_labels").records(1)]

    with watched(data, monkeypatch) as disk:
        records.put(1, run_record(4, "planned"))
        assert states(disk.cut().after_cut(data.parent / "planned")) == ["planned"]
        before = len(disk.cuts)
        records.change(1, run_record(4, "planned"), "written")
    found = at_every_cut(disk.cuts[before:], data.parent / "cuts", states)
    assert all(state in (["planned"], ["written"]) for state in found)
    assert found[-2:] == [["written"], ["written"]]


def test_the_account_of_label_studio_is_whole_or_not_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(data, monkeypatch) as disk:
        account = Account.of_folder(data)

    def kept(folder: Path) -> object:
        try:
            return read_either(folder / "account.json", Account._parse)
        except FileNotFoundError:
            return None

    found = at_every_cut(disk.cuts, data.parent / "cuts", kept)
    assert all(one in (None, account) for one in found)
    assert found[-2:] == [account, account]


def test_events_wait_for_no_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook has a second: what a power cut takes of the journal, the timer's sync asks Label Studio for."""
    with watched(data, monkeypatch) as disk:
        journal = Journal(data / "inbox")
        journal.append(EventNote(1, "ANNOTATION_CREATED", (7,)))
    journal.close()
    assert len(disk.cuts) == 1, "nothing was told to be kept"
    left = at_every_cut(disk.cuts, data.parent / "cuts", lambda folder: Journal(folder / "inbox").left_over)
    assert left == [[], []]


def test_sqlite_keeps_run_numbers_and_connections_at_once_and_the_rest_in_order(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    seen: list[int] = []

    def look(connection: sql.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            told = connection.connection.cursor().execute("PRAGMA synchronous").fetchone()
            seen.append(int(told[0]))

    sql.event.listen(store._engine, "before_cursor_execute", look)
    done: list[Callable[[], object]] = [
        lambda: store.join(1, "s"),
        lambda: store.start_run(1, "sync"),
        lambda: store.leave(1),
    ]
    for work in done:
        seen.clear()
        work()
        assert set(seen) == {FULL}
    seen.clear()
    store.set_served(1, "v")
    assert seen == [NORMAL], "on a connection that was told otherwise before"
    with store._read() as connection:
        assert connection.scalar(sql.text("PRAGMA journal_mode")) == "wal"
    store.close()
