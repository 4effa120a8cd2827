"""Which tasks a person is likely to be shown next, so that their embeddings can be computed ahead."""

from __future__ import annotations

import threading
import time
from typing import Any

from backend.store import Store

CACHE_TTL_S = 30.0
"""How long a project's list is kept: reading a large pool at every click would cost more than it saves."""


class NextTasks:
    """The head of each project's queue."""

    def __init__(self, store: Store, count: int) -> None:
        self._store, self._count = store, count
        self._lock = threading.Lock()
        self._known: dict[int, tuple[float, list[tuple[int, dict[str, Any]]]]] = {}

    def after(self, project: int, task: int | None) -> list[tuple[int, dict[str, Any]]]:
        """(id, data) of the tasks to be served after `task`, the next first."""
        if not self._count:
            return []
        with self._lock:
            read_at, queue = self._known.get(project, (-CACHE_TTL_S, []))
            if time.monotonic() - read_at > CACHE_TTL_S:
                queue = self._read(project)
                self._known[project] = time.monotonic(), queue
        return [one for one in queue if one[0] != task][: self._count]

    def _read(self, project: int) -> list[tuple[int, dict[str, Any]]]:
        rows, _ = self._store.ranked_tasks(project, count=self._count + 20)
        return [(row.task, row.data) for row in rows]
