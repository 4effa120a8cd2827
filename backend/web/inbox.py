"""Webhook events, taken at once and worked on later, in one background thread.

Label Studio sends an event once, inside the annotator's request, and gives up after a second: nobody must wait for a
store or a queue here. What was taken is in a file first, so that neither a killed process nor a store that does not
answer loses it. What was never taken the timer's sync finds, because it asks Label Studio itself.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from backend.label_studio.messages import WebhookEvent
from backend.metrics.service import Metrics
from backend.web.journal import EventNote, Journal
from usam.errors import UsamError

ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
        "START_TRAINING",
    }
)
"""Actions that are known to exist; others are taken too, and counted as `other`."""
TRAIN = "START_TRAINING"
MAX_EVENTS = 10_000
MAX_SUBJECTS = 1000
GATHER_S = 0.05
"""How long events are gathered before they are stored: those of a burst go in one transaction, after its answers."""
RETRY_DELAYS_S = (1.0, 2.0, 5.0, 15.0)
"""Waits before a store that failed is tried again; the last one for good."""
log = logging.getLogger(__name__)


class EventStore(Protocol):
    """What keeps events."""

    def add_events(self, notes: Sequence[tuple[int, str, Sequence[int]]]) -> None: ...


class Waker(Protocol):
    """What starts jobs."""

    def wake(self, project: int, job: Any, *, at_front: bool = False) -> bool: ...


class Inbox:
    """Takes raw events and, in its own thread, stores them and wakes the job `sync`. Payloads are never
    logged: a project's carries its invite token and the password of its task data.

    `folder` is where events wait for the store; without one they wait in memory only.
    """

    def __init__(
        self, store: EventStore | None, waker: Waker | None, metrics: Metrics, folder: Path | None = None
    ) -> None:
        self._store, self._waker, self._metrics = store, waker, metrics
        self._journal = Journal(folder) if folder is not None else None
        self._notes: deque[EventNote] = deque(self._journal.left_over if self._journal is not None else ())
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def put(self, raw: bytes) -> bool:
        """Take an event's body; False where it could not be kept. Waits for nothing but the parsing."""
        note = self._read(raw)
        if note is None:
            return True
        if len(self._notes) >= MAX_EVENTS:
            self._metrics.events_lost.inc()
            return False
        with self._changed:  # so that nothing is between the file and the memory when the file is emptied
            try:
                if self._journal is not None:
                    self._journal.append(note)
            except OSError as error:
                log.warning("an event was not kept: %s", error)
                self._metrics.events_lost.inc()
                return False
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
            payload = json.loads(raw or b"{}")
            event = WebhookEvent.model_validate(payload)
        except (ValueError, ValidationError, RecursionError):
            self._metrics.events.labels("unreadable").inc()
            return None
        self._metrics.events.labels(event.action if event.action in ACTIONS else "other").inc()
        project = event.project_id
        if project is None:
            return None
        return EventNote(project, event.action[:60], tuple(subjects_of(payload)[:MAX_SUBJECTS]))

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
            kept = self._keep(taken)
            failures = 0 if kept else failures + 1
            if kept:
                with self._changed:
                    for _ in taken:
                        self._notes.popleft()
                    if self._journal is not None:
                        self._journal.clear(size)
                    self._changed.notify_all()
            elif self._closing.is_set():
                return

    def _keep(self, notes: Sequence[EventNote]) -> bool:
        """Store the events and wake what they ask for. False where they have to be stored later."""
        if self._store is not None:
            try:
                self._store.add_events([(note.project, note.action, note.subjects) for note in notes])
            except Exception as error:
                log.warning("events are not stored yet: %s", error if isinstance(error, UsamError) else type(error))
                return False
        asked: dict[int, bool] = {}
        for note in notes:
            log.info("event %s of project %s", note.action, note.project)
            asked[note.project] = asked.get(note.project, False) or note.action == TRAIN
        if self._waker is not None:
            for project, at_front in asked.items():
                try:
                    self._waker.wake(project, "sync", at_front=at_front)
                except Exception as error:
                    log.warning("sync of project %s was not woken, the timer will: %s", project, type(error))
        return True


def subjects_of(payload: dict[str, Any]) -> list[int]:
    """Ids of the annotations, or else the tasks, that an event is about."""
    for key in ("annotation", "annotations", "tasks", "task"):
        found = payload.get(key)
        items = found if isinstance(found, list) else [found]
        ids = [item.get("id") if isinstance(item, dict) else item for item in items]
        numbers = [number for number in ids if isinstance(number, int) and not isinstance(number, bool)]
        if numbers:
            return numbers
    return []
