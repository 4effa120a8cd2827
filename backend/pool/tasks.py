"""A project's tasks in the store, brought up to date with Label Studio at the price of what has changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from backend.errors import StoreError, reason_of
from backend.label_studio.records import MAX_ID, Task

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudio
    from backend.store import Store

FULL_EVERY_S = 900.0
FULL_TASK_S = 0.045
"""A large pool is read whole less often, by so much a task: 100,000 every 75 minutes, which takes one or two."""
OVERLAP_S = 30.0
"""Asked again each time: changes whose transaction was still open when the last sync looked."""
SETTLED_S = 300.0
"""What was written so long ago is taken to have been read: else a pool that was imported in one go, all of it within
`OVERLAP_S` of the newest change, is read again with each sync until somebody changes something. What a transaction held
back for longer is found when everything is read."""
TAKEN_AT_ONCE = 500
UNREADABLE = "Label Studio itself cannot tell it (HTTP 500): delete it there, or correct its text"


@dataclass(frozen=True)
class TaskRefresh:
    """How many tasks are gone, and which could not be used, each with the reason."""

    removed: int = 0
    set_aside: tuple[str, ...] = ()


def refresh_tasks(store: Store, client: LabelStudio, project_id: int) -> TaskRefresh:
    """Bring the store's tasks up to date; those that changed stay `unchecked`.

    Only changes are asked for, and everything every `FULL_EVERY_S` (a large pool less often) or where the numbers of
    tasks differ. A time that has not come yet, told by a clock that ran ahead, counts as none: what changes until then
    would not be asked for.
    """
    latest, settled = _latest(client), _earlier(client.clock(), SETTLED_S)
    cursor = _known(store.cursor(project_id), latest)
    pause = max(FULL_EVERY_S, FULL_TASK_S * store.task_count(project_id))
    since = _earlier(_moment(cursor), OVERLAP_S) if abs(time.time() - store.synced_at(project_id)) <= pause else ""
    if since:
        unreadable: list[int] = []
        changed = _take(store, project_id, client.tasks(project_id, since=since, unreadable=unreadable), latest)
        changed.leave_out(unreadable)
        if store.task_count(project_id) == client.task_count(project_id):
            store.advance_cursor(project_id, max(changed.newest, settled))
            return TaskRefresh(0, tuple(changed.set_aside))
    unreadable = []
    present = _take(store, project_id, client.tasks(project_id, unreadable=unreadable), latest)
    present.leave_out(unreadable)
    gone = store.task_ids(project_id) - present.ids
    if gone and (count := client.task_count(project_id)) != len(present.ids):  # pages moved while they were read
        again = {task.id for task in client.tasks(project_id)} | set(unreadable)
        gone = gone - again if len(again) >= count else set()  # what counts more than it tells says nothing of any
    store.remove_tasks(project_id, gone)
    store.set_cursor(project_id, max(cursor, present.newest, settled if present.newest else ""))
    return TaskRefresh(len(gone), tuple(present.set_aside))


@dataclass
class _Taken:
    """Tasks that were taken over: their numbers, and the time of the newest change among them."""

    ids: set[int] = field(default_factory=set)
    newest: str = ""
    set_aside: list[str] = field(default_factory=list)

    def leave_out(self, unreadable: Iterable[int]) -> None:
        """Note tasks that are there, and that Label Studio cannot tell: what is known of them stays."""
        self.ids.update(unreadable)
        self.set_aside += [f"task {number}: {UNREADABLE}" for number in unreadable]


def _take(store: Store, project_id: int, tasks: Iterable[Task], latest: datetime | None) -> _Taken:
    """Take tasks over, some at a time: no project is too big to be held."""
    taken, waiting = _Taken(), list[Task]()
    for task in tasks:
        if not 0 < task.id <= MAX_ID:
            taken.set_aside.append(f"task {str(task.id)[:40]}: expected a number from 1 to {MAX_ID}")
            continue
        if task.id not in taken.ids:
            waiting.append(task)
        taken.ids.add(task.id)
        taken.newest = max(taken.newest, _known(task.updated_at, latest))
        if len(waiting) >= TAKEN_AT_ONCE:
            _record(store, project_id, waiting, taken)
            waiting = []
    _record(store, project_id, waiting, taken)
    return taken


def _record(store: Store, project_id: int, tasks: Sequence[Task], taken: _Taken) -> None:
    """Store tasks; where some of them cannot be, those are set aside by name."""
    try:
        store.record_tasks(project_id, tasks)
    except StoreError as error:
        if len(tasks) == 1:
            taken.set_aside.append(f"task {tasks[0].id}: {reason_of(error)}")
            return
        half = len(tasks) // 2
        _record(store, project_id, tasks[:half], taken)
        _record(store, project_id, tasks[half:], taken)


def _moment(cursor: str) -> datetime | None:
    """A time of Label Studio's; None where it is none."""
    try:
        moment = datetime.fromisoformat(cursor.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def _latest(client: LabelStudio) -> datetime | None:
    """The latest time that a change can have by Label Studio's clock; None where it tells none."""
    now = client.clock()
    return now + timedelta(seconds=OVERLAP_S) if now is not None and now.tzinfo is not None else None


def _known(told: str, latest: datetime | None) -> str:
    """A time as it was told; empty where it is none, or later than `latest`."""
    moment = _moment(told)
    return told if moment is not None and (latest is None or moment <= latest) else ""


def _earlier(moment: datetime | None, seconds: float) -> str:
    """Some seconds before a time, as Label Studio writes it; empty where there is none."""
    try:
        return (moment - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else ""
    except OverflowError:
        return ""
