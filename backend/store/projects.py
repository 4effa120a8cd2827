"""Projects that are looked after, and the events that came in for them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from backend.store.database import Database, parts
from backend.store.records import Event
from backend.store.schema import annotation_map, events, projects, proposals, runs, samples, scores, tasks


class Projects(Database):
    """The store's part about projects and events."""

    def join(self, project: int, stamp: str = "") -> None:
        """Note that `project` is ours to look after. Another `stamp` under the same id empties it first."""
        with self._write() as connection:
            row = connection.execute(sql.select(projects.c.stamp).where(projects.c.id == project)).first()
            if row is None:
                fresh = {"id": project, "stamp": stamp, "cursor": "", "served": "", "synced_at": 0.0}
                self._upsert(connection, projects, [fresh], keep_existing=True)
            elif stamp and row.stamp and row.stamp != stamp:
                self._empty(connection, project)
                connection.execute(
                    projects.update().where(projects.c.id == project).values(stamp=stamp, cursor="", served="")
                )
            elif stamp and not row.stamp:
                connection.execute(projects.update().where(projects.c.id == project).values(stamp=stamp))

    def forget(self, project: int) -> None:
        """Drop a project with all that is known of it."""
        with self._write() as connection:
            self._empty(connection, project)
            connection.execute(projects.delete().where(projects.c.id == project))

    def projects(self) -> list[int]:
        """Projects that are ours to look after."""
        with self._read() as connection:
            return list(connection.scalars(sql.select(projects.c.id).order_by(projects.c.id)))

    def served(self, project: int) -> str:
        """The prediction version in use, empty where nothing was ever scored."""
        return str(self._of_project(project, projects.c.served) or "")

    def set_served(self, project: int, version: str) -> None:
        """Note which prediction version is in use."""
        self._set_project(project, served=version)

    def cursor(self, project: int) -> str:
        """The largest `updated_at` of a task that a finished sync has seen, empty before the first."""
        return str(self._of_project(project, projects.c.cursor) or "")

    def synced_at(self, project: int) -> float:
        """When a sync last looked at every task, 0 before the first."""
        return float(self._of_project(project, projects.c.synced_at) or 0.0)

    def set_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at every task has seen."""
        self._set_project(project, cursor=cursor, synced_at=time.time())

    def advance_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at changes only has seen."""
        if cursor > self.cursor(project):
            self._set_project(project, cursor=cursor)

    # events

    def add_events(self, notes: Sequence[tuple[int, str, Sequence[int]]]) -> None:
        """Keep events of Label Studio's, all or none: the project, the action, and ids of what it was about."""
        rows = [
            {
                "project": project,
                "action": action[:60],
                "subjects": json.dumps(list(subjects)),
                "received_at": time.time(),
                "handled": False,
            }
            for project, action, subjects in notes
        ]
        with self._write() as connection:
            for part in parts(rows):
                connection.execute(events.insert(), part)

    def open_events(self, project: int | None = None) -> list[Event]:
        """Events no sync has taken up yet, oldest first."""
        query = sql.select(events).where(~events.c.handled).order_by(events.c.id)
        if project is not None:
            query = query.where(events.c.project == project)
        with self._read() as connection:
            return [
                Event(row.id, row.project, row.action, tuple(json.loads(row.subjects)), row.received_at)
                for row in connection.execute(query)
            ]

    def handle_events(self, project: int, up_to: int, keep: int = 1000) -> None:
        """Mark events up to number `up_to` as taken up; of all such the last `keep` stay for the record."""
        mine = events.c.project == project
        with self._write() as connection:
            connection.execute(events.update().where(mine, events.c.id <= up_to).values(handled=True))
            connection.execute(events.delete().where(mine, events.c.handled, events.c.id <= up_to - keep))

    def _of_project(self, project: int, column: sql.Column[Any]) -> Any:
        with self._read() as connection:
            return connection.scalar(sql.select(column).where(projects.c.id == project))

    def _set_project(self, project: int, **values: Any) -> None:
        with self._write() as connection:
            connection.execute(projects.update().where(projects.c.id == project).values(**values))

    @staticmethod
    def _empty(connection: Connection, project: int) -> None:
        for table in (samples, proposals, scores, annotation_map, tasks, events, runs):
            connection.execute(table.delete().where(table.c.project == project))
