"""Webhook events, taken at once and worked on later, in one background thread.

Label Studio sends an event once, inside the annotator's request, and gives up after a second: nobody must
wait for a store or a queue here. What is lost (a crash, a full inbox) the timer's sync finds again, because
it asks Label Studio itself.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from backend.metrics import Metrics
from backend.protocol import WebhookEvent
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
MAX_BYTES = 256 * 1024 * 1024
log = logging.getLogger(__name__)


class EventStore(Protocol):
    """What keeps events."""

    def add_event(self, project: int, action: str, subjects: Sequence[int] = ()) -> int: ...


class Waker(Protocol):
    """What starts jobs."""

    def wake(self, project: int, job: Any, *, at_front: bool = False) -> bool: ...


class Inbox:
    """Takes raw events and, in its own thread, stores them and wakes the job `sync`. Payloads are never
    logged: a project's carries its invite token and the password of its task data."""

    def __init__(self, store: EventStore | None, waker: Waker | None, metrics: Metrics) -> None:
        self._store, self._waker, self._metrics = store, waker, metrics
        self._events: queue.Queue[bytes | None] = queue.Queue(MAX_EVENTS)
        self._bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def put(self, raw: bytes) -> bool:
        """Take an event's body; False where there is no room. Does not block."""
        with self._lock:
            if self._bytes + len(raw) > MAX_BYTES:
                self._metrics.events_lost.inc()
                return False
            self._bytes += len(raw)
        try:
            self._events.put_nowait(raw)
        except queue.Full:
            with self._lock:
                self._bytes -= len(raw)
            self._metrics.events_lost.inc()
            return False
        return True

    def drain(self) -> None:
        """Wait until everything taken so far is done."""
        self._events.join()

    def close(self, timeout: float = 5.0) -> None:
        """Work off what is there, for `timeout` seconds at most."""
        self._events.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            raw = self._events.get()
            try:
                if raw is None:
                    return
                with self._lock:
                    self._bytes -= len(raw)
                self._handle(raw)
            except Exception as error:
                self._metrics.events_lost.inc()
                log.warning("an event was not stored: %s", error if isinstance(error, UsamError) else type(error))
            finally:
                self._events.task_done()

    def _handle(self, raw: bytes) -> None:
        try:
            payload = json.loads(raw or b"{}")
            event = WebhookEvent.model_validate(payload)
        except (ValueError, ValidationError, RecursionError):
            self._metrics.events.labels("unreadable").inc()
            return
        self._metrics.events.labels(event.action if event.action in ACTIONS else "other").inc()
        project = event.project_id
        if project is None:
            return
        log.info("event %s of project %s", event.action[:60], project)
        try:
            if self._store is not None:
                self._store.add_event(project, event.action, subjects_of(payload))
        finally:
            if self._waker is not None:
                self._waker.wake(project, "sync", at_front=event.action == TRAIN)


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
