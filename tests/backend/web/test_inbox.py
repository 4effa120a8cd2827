"""What the inbox has taken is stored, whoever is killed and whatever fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.metrics.service import Metrics
from backend.store import Store
from backend.web.inbox import MAX_EVENTS, Inbox
from backend.web.journal import ASIDE, PATTERN, EventNote, Journal

Notes = Sequence[tuple[int, str, Sequence[int]]]


class Connected:
    """Knows that project 3 was connected."""

    def projects(self) -> list[int]:
        return [3]


class Down(Connected):
    """A store that does not answer."""

    def add_events(self, notes: Notes) -> None:
        raise OSError("no route to host")


class Kept(Connected):
    """A store that notes how it was asked."""

    def __init__(self) -> None:
        self.transactions: list[Notes] = []

    def add_events(self, notes: Notes) -> None:
        self.transactions.append(notes)


def event(number: int, **more: object) -> bytes:
    return json.dumps(
        {"action": "ANNOTATION_CREATED", "annotation": {"id": number}, "project": {"id": 3, **more}}
    ).encode()


def take_and_die(folder: Path, count: int) -> None:
    inbox = Inbox(Down(), None, Metrics(), folder)
    for number in range(count):
        assert inbox.put(event(number))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_loses_no_event_it_has_taken(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=take_and_die, args=(tmp_path / "inbox", 20))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    store = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    store.join(3)
    inbox = Inbox(store, None, Metrics(), tmp_path / "inbox")
    assert inbox.drain()
    assert [one.subjects for one in store.open_events(3)] == [(number,) for number in range(20)]
    inbox.close()
    assert list((tmp_path / "inbox").iterdir()) == [], "what is stored waits no longer"
    store.close()


def test_a_burst_is_one_transaction(tmp_path: Path) -> None:
    kept = Kept()
    inbox = Inbox(kept, None, Metrics(), tmp_path)
    for number in range(50):
        inbox.put(event(number))
    assert inbox.drain()
    assert sum(map(len, kept.transactions)) == 50
    assert len(kept.transactions) <= 3
    inbox.close()


def test_no_secret_reaches_the_disk(tmp_path: Path) -> None:
    inbox = Inbox(Down(), None, Metrics(), tmp_path)
    inbox.put(event(1, token="hush-invite", task_data_password="hush-password"))
    (file,) = tmp_path.glob(PATTERN)
    assert "ANNOTATION_CREATED" in file.read_text()
    assert "hush" not in file.read_text()
    inbox.close()


def test_events_that_a_full_disk_does_not_take_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, metrics = Kept(), Metrics()
    inbox = Inbox(store, None, metrics, tmp_path)

    def full(_: Journal, note: EventNote) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        assert inbox.put(event(1))
    assert inbox.put(event(2))
    assert inbox.drain()
    inbox.close()
    assert sorted(row[2][0] for rows in store.transactions for row in rows) == [1, 2]
    assert b"usam_webhook_events_lost_total 0.0" in metrics.text()
    assert list(tmp_path.glob(PATTERN)) == []


def test_a_full_inbox_says_so(tmp_path: Path) -> None:
    metrics = Metrics()
    inbox = Inbox(Down(), None, metrics)
    taken = [inbox.put(event(number)) for number in range(MAX_EVENTS + 2)]
    assert taken == [True] * MAX_EVENTS + [False] * 2
    assert b"usam_webhook_events_lost_total 2.0" in metrics.text()
    inbox.close()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"action": 3}', b'{"project": {"id": "x"}, "action": "A"}'])
def test_what_is_no_event_is_taken_and_forgotten(tmp_path: Path, body: bytes) -> None:
    kept = Kept()
    inbox = Inbox(kept, None, Metrics(), tmp_path)
    assert inbox.put(body)
    inbox.close()
    assert kept.transactions == []


def aside(folder: Path) -> list[dict[str, object]]:
    file = folder / ASIDE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


POISON = (
    b'{"action": "\\ud800", "project": {"id": 3}}',
    b'{"action": "a\\u0000b", "project": {"id": 3}}',
    b'{"action": "A", "project": {"id": 9223372036854775808}}',
    b'{"action": "A", "project": {"id": -1}}',
    b'{"action": "A", "project": {"id": 1000000000000000000000000000000}}',
    b'{"action": "A", "project": {"id": [1]}}',
)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def test_poison_stops_no_event_behind_it(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'usam.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    store = Store(url)
    store.join(3)
    inbox = Inbox(store, None, Metrics(), tmp_path / "inbox")
    for raw in POISON:
        assert inbox.put(raw)
        assert inbox.put(event(len(raw)))
    huge = b'{"action": "A", "annotations": [{"id": 5}, {"id": 9223372036854775808}, {"id": -4}], "project": 3}'
    assert inbox.put(huge)
    assert inbox.drain()
    events = store.open_events(3)
    assert [one.subjects for one in events if one.subjects] == [*((len(raw),) for raw in POISON), (5,)]
    readable = [one for one in events if not one.subjects]
    assert len(aside(tmp_path / "inbox")) + len(readable) == len(POISON), "signs that are no text may be taken out"
    assert len(aside(tmp_path / "inbox")) >= 4
    assert all(line["reason"] for line in aside(tmp_path / "inbox"))
    inbox.close()
    store.close()


def test_a_journal_hands_no_poison_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for note in (EventNote(3, "\ud800"), EventNote(3, "X", (1,)), EventNote(2**63, "X"), EventNote(3, "Y", (10**30,))):
        journal.append(note)
    journal.close()
    inbox = Inbox(Down(), None, Metrics(), tmp_path)
    (file,) = tmp_path.glob(PATTERN)
    assert [json.loads(line)["subjects"] for line in file.read_text().splitlines()] == [[1]]
    assert len(aside(tmp_path)) == 3
    inbox.close()


class Picky(Kept):
    """A store that refuses an action, whatever it is sent with."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def add_events(self, notes: Notes) -> None:
        if any(action == "BAD" for _, action, _ in notes):
            raise self.error
        super().add_events(notes)


@pytest.mark.parametrize("error", [OverflowError("too large"), RuntimeError("who knows")])
def test_an_event_that_the_store_refuses_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("backend.web.inbox.RETRY_DELAYS_S", (0.01,))
    store = Picky(error)
    inbox = Inbox(store, None, Metrics(), tmp_path)
    inbox.put(json.dumps({"action": "BAD", "project": 3}).encode())
    for number in range(1, 4):
        inbox.put(event(number))
        if isinstance(error, RuntimeError):  # nobody knows whose fault it is until others were stored beside it
            while len(store.transactions) < number:
                time.sleep(0.005)
    assert inbox.drain()
    assert sum(map(len, store.transactions)) == 3
    assert [line["action"] for line in aside(tmp_path)] == ["BAD"]
    inbox.close()
    assert [path.name for path in tmp_path.iterdir()] == [ASIDE]


def test_an_event_of_a_project_that_nobody_connected_is_passed_over(tmp_path: Path) -> None:
    kept, metrics = Kept(), Metrics()
    inbox = Inbox(kept, None, metrics, tmp_path)
    inbox.put(json.dumps({"action": "ANNOTATION_CREATED", "project": {"id": 4}}).encode())
    inbox.put(event(1))
    assert inbox.drain()
    assert [note for notes in kept.transactions for note in notes] == [(3, "ANNOTATION_CREATED", (1,))]
    assert b'action="not-connected"} 1.0' in metrics.text()
    inbox.close()
