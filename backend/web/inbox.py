"""Webhook events, taken at once and worked on later, in one background thread.

Label Studio sends an event once, inside the annotator's request, and gives up after a second: nobody must wait for a
store or a queue here. What was taken is in a file first, so that neither a killed process nor a store that does not
answer loses it. What was never taken the timer's sync finds, because it asks Label Studio itself.

An event that no store can hold is set aside with the reason, and those behind it go on. An event of a project that
nobody connected is passed over: whoever can send one cannot make us write into somebody's project.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.label_studio.messages import WebhookEvent
from backend.label_studio.records import MAX_ID
from backend.label_studio.setup import WEBHOOK_ACTIONS
from backend.metrics.service import Metrics
from backend.queue import JobQueue
from backend.store import Store
from backend.web.bodies import TooMuch, parse_json
from backend.web.journal import EventNote, Journal
from usam.errors import UsamError

TRAIN = "START_TRAINING"
ACTIONS = frozenset({*WEBHOOK_ACTIONS, TRAIN})
"""Actions that are known to exist; others are taken too, and counted as `other`."""
MAX_EVENTS = 10_000
MAX_SUBJECTS = 1000
MAX_FAILURES = 3
"""Times that the store may refuse one event, taking others, before the event is set aside."""
GATHER_S = 0.05
"""How long events are gathered before they are stored: those of a burst go in one transaction, after its answers."""
RETRY_DELAYS_S = (1.0, 2.0, 5.0, 15.0)
"""Waits before a store that failed is tried again; the last one for good."""
log = logging.getLogger(__name__)


class Inbox:
    """Takes raw events and, in its own thread, stores them and wakes the job `sync`. Payloads are never
    logged: a project's carries its invite token and the password of its task data.

    `folder` is where events wait for the store; without one they wait in memory only. `any_project` takes events of
    projects that nobody connected, too.
    """

    def __init__(
        self,
        store: Store | None,
        waker: JobQueue | None,
        metrics: Metrics,
        folder: Path | None = None,
        *,
        any_project: bool = False,
    ) -> None:
        self._store, self._waker, self._metrics = store, waker, metrics
        self._journal = _journal_in(folder) if folder is not None else None
        self._notes: deque[EventNote] = deque(self._left_over())
        self._any_project = any_project
        self._failures: dict[EventNote, int] = {}
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def put(self, raw: bytes) -> bool:
        """Take an event's body; False where it could not be kept. Waits for nothing but the parsing."""
        try:
            note = self._read(raw)
        except TooMuch as error:
            log.warning("an event of %d bytes is left to the timer: %s", len(raw), error)
            self._metrics.events_lost.inc()
            return False
        if note is None or self._is_faulty(note):
            return True
        if len(self._notes) >= MAX_EVENTS:
            self._metrics.events_lost.inc()
            return False
        with self._changed:  # so that nothing is between the file and the memory when the file is emptied
            try:
                if self._journal is not None:
                    self._journal.append(note)
            except OSError as error:  # a full disk, say: what a crash takes meanwhile the timer finds
                log.warning("an event is kept in memory alone: %s", error)
            self._notes.append(note)
            self._changed.notify_all()
        return True

    def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything taken so far is done; False where it is not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._notes, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Work off what is there, for `timeout` seconds at most; what is left the next process stores."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._journal is not None and not self._thread.is_alive():
            self._journal.close()

    def _read(self, raw: bytes) -> EventNote | None:
        try:
            payload = parse_json(raw)
            event = WebhookEvent.model_validate(payload)
        except (ValueError, ValidationError, RecursionError):
            self._metrics.events.labels("unreadable").inc()
            return None
        self._metrics.events.labels(event.action if event.action in ACTIONS else "other").inc()
        given = event.project.get("id") if isinstance(event.project, dict) else event.project
        if given is None:
            return None
        # a number that no project can have is kept as it came, to be set aside by it
        project = event.project_id or (given if isinstance(given, int) and not isinstance(given, bool) else 0)
        return EventNote(project, event.action[:60], tuple(subjects_of(payload)[:MAX_SUBJECTS]))

    def _left_over(self) -> list[EventNote]:
        """What earlier processes left, without what poisons a store."""
        if self._journal is None:
            return []
        good = [note for note in self._journal.left_over if not self._is_faulty(note)]
        if len(good) < len(self._journal.left_over):
            self._journal.keep(good)
        return good

    def _is_faulty(self, note: EventNote) -> bool:
        reason = note.fault()
        if reason:
            self._set_aside(note, reason)
        return bool(reason)

    def _set_aside(self, note: EventNote, reason: str) -> None:
        self._metrics.events.labels("set-aside").inc()
        log.warning("an event of project %s is set aside: %s", str(note.project)[:20], reason)
        if self._journal is not None:
            try:
                self._journal.set_aside(note, reason)
            except OSError as error:
                log.warning("and could not be written down: %s", type(error).__name__)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._notes or self._closing.is_set())
                if not self._notes:
                    return
            # the first of a burst waits for the rest; after a failure the store is given time
            self._closing.wait(RETRY_DELAYS_S[min(failures, len(RETRY_DELAYS_S)) - 1] if failures else GATHER_S)
            with self._changed:
                taken = list(self._notes)
                size = self._journal.size if self._journal is not None else 0
            left = self._keep(taken)
            failures = failures + 1 if left else 0
            with self._changed:
                for _ in taken:
                    self._notes.popleft()
                self._notes.extendleft(reversed(left))
                try:
                    if self._journal is not None and not left:
                        self._journal.clear(size)
                    elif self._journal is not None and len(left) < len(taken):
                        self._journal.keep(self._notes)
                except OSError as error:
                    log.warning("stored events wait in the journal still: %s", type(error).__name__)
                self._changed.notify_all()
            if left and self._closing.is_set():
                return

    def _keep(self, notes: Sequence[EventNote]) -> list[EventNote]:
        """Store the events and wake what they ask for. Returns those that have to be stored later."""
        stored, left = notes, list[EventNote]()
        if self._store is not None:
            try:
                if not self._any_project:
                    connected = set(self._store.projects())
                    notes = [note for note in notes if self._is_connected(note, connected)]
                stored, left = self._store_all(self._store, notes)
            except Exception as error:
                log.warning("events are not stored yet: %s", error if isinstance(error, UsamError) else type(error))
                return list(notes)
        asked: dict[int, bool] = {}
        for note in stored:
            log.info("event %s of project %s", note.action, note.project)
            asked[note.project] = asked.get(note.project, False) or note.action == TRAIN
        if self._waker is not None:
            for project, at_front in asked.items():
                try:
                    self._waker.wake(project, "sync", at_front=at_front)
                except Exception as error:
                    log.warning("sync of project %s was not woken, the timer will: %s", project, type(error))
        return left

    def _is_connected(self, note: EventNote, connected: set[int]) -> bool:
        if note.project not in connected:
            self._metrics.events.labels("not-connected").inc()
            log.warning(
                "an event of project %s is passed over: connect it (usam-backend connect --project %s)",
                note.project,
                note.project,
            )
        return note.project in connected

    def _store_all(self, store: Store, notes: Sequence[EventNote]) -> tuple[Sequence[EventNote], list[EventNote]]:
        """Store the events at once, else one by one. Returns those stored, and those to be tried again; a bad one is
        set aside. Raises where the store takes none and no event is to blame."""
        try:
            if notes:
                store.add_events([_row(note) for note in notes])
            return notes, []
        except Exception as error:
            if len(notes) == 1 and not _blames_the_event(error):
                raise
        stored, failed = list[EventNote](), list[tuple[EventNote, Exception]]()
        for note in notes:
            try:
                store.add_events([_row(note)])
                stored.append(note)
            except Exception as error:
                if _blames_the_event(error):
                    self._set_aside(note, f"the store cannot hold it: {type(error).__name__}")
                elif not stored and len(failed) >= MAX_FAILURES:
                    raise  # the store is down
                else:
                    failed.append((note, error))
        left = []
        for note, refusal in failed:
            self._failures[note] = self._failures.get(note, 0) + bool(stored)
            if self._failures[note] < MAX_FAILURES:
                left.append(note)
            else:
                self._set_aside(note, f"the store refused it {MAX_FAILURES} times: {type(refusal).__name__}")
        self._failures = {note: self._failures[note] for note in left}
        return stored, left


def _journal_in(folder: Path) -> Journal | None:
    """The journal of a folder; without one, said, where the folder cannot be used: events are kept in memory then, and
    what a crash takes the timer finds."""
    try:
        return Journal(folder)
    except OSError as error:
        log.warning("events are not written down: %s; correct its rights, or run `usam-backend repair`", error)
        return None


def _row(note: EventNote) -> tuple[int, str, Sequence[int]]:
    return note.project, note.action, note.subjects


def _blames_the_event(error: Exception) -> bool:
    """Whether a store failed because of what it was given rather than of itself."""
    from sqlalchemy.exc import DataError, IntegrityError

    return isinstance(error, ValueError | TypeError | OverflowError | DataError | IntegrityError)


def subjects_of(payload: dict[str, Any]) -> list[int]:
    """Ids of the annotations, or else the tasks, that an event is about."""
    for key in ("annotation", "annotations", "tasks", "task"):
        value = payload.get(key)
        items = value if isinstance(value, list) else [value]
        ids = [item.get("id") if isinstance(item, dict) else item for item in items]
        numbers = [number for number in ids if type(number) is int and 0 <= number <= MAX_ID]
        if numbers:
            return numbers
    return []
