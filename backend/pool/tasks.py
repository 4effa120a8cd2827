"""A project's tasks in the store, brought up to date with Label Studio at the price of what has changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from backend.label_studio.records import MAX_ID, Task

if TYPE_CHECKING:
    from backend.store import Store

FULL_EVERY_S = 900.0
OVERLAP_S = 30.0
"""Asked again each time: changes whose transaction was still open when the last sync looked."""


class TaskSource(Protocol):
    """What knows a project's tasks as they are now."""

    def tasks(self, project: int, *, since: str = "") -> Iterator[Task]: ...

    def task_count(self, project: int) -> int: ...


@dataclass(frozen=True)
class TaskRefresh:
    """How many tasks are gone, and which could not be used, each with the reason."""

    removed: int = 0
    set_aside: tuple[str, ...] = ()


def refresh_tasks(store: Store, client: TaskSource, project_id: int) -> TaskRefresh:
    """Bring the store's tasks up to date; those that changed stay `unchecked`.

    Only changes are asked for, and everything every `FULL_EVERY_S` or where the numbers of tasks differ.
    """
    cursor = store.cursor(project_id)
    since = _earlier(cursor) if time.time() - store.synced_at(project_id) <= FULL_EVERY_S else ""
    if since:
        changed, set_aside = _usable(client.tasks(project_id, since=since))
        store.record_tasks(project_id, changed)
        if store.task_count(project_id) == client.task_count(project_id):
            store.advance_cursor(project_id, _newest(changed))
            return TaskRefresh(0, set_aside)
    present, set_aside = _usable(client.tasks(project_id))
    gone = {task.id for task in store.tasks(project_id)} - {task.id for task in present}
    if gone and client.task_count(project_id) != len(present):  # pages moved while they were read
        gone -= {task.id for task in client.tasks(project_id)}
    store.record_tasks(project_id, present)
    store.remove_tasks(project_id, gone)
    store.set_cursor(project_id, max(cursor, _newest(present)))
    return TaskRefresh(len(gone), set_aside)


def _usable(tasks: Iterable[Task]) -> tuple[list[Task], tuple[str, ...]]:
    usable: dict[int, Task] = {}
    set_aside = []
    for task in tasks:
        if 0 < task.id <= MAX_ID:
            usable[task.id] = task
        else:
            set_aside.append(f"task {str(task.id)[:40]}: expected a number from 1 to {MAX_ID}")
    return list(usable.values()), tuple(set_aside)


def _newest(tasks: Iterable[Task]) -> str:
    return max((task.updated_at for task in tasks), default="")


def _earlier(cursor: str) -> str:
    """A little before a time of Label Studio's; empty where it is none."""
    try:
        moment = datetime.fromisoformat(cursor.replace("Z", "+00:00")) - timedelta(seconds=OVERLAP_S)
    except (ValueError, OverflowError):
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
