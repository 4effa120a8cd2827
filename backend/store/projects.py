"""Projects that are looked after, and the events that came in for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from backend.store.database import Database, parts
from backend.store.records import (
    Event,
    ExampleRow,
    KnownAnnotation,
    KnownTask,
    ProjectRow,
    ProposalRow,
    RefinementState,
    Run,
    SampleRow,
    ScoreRow,
    SelectionGain,
    VerdictRow,
    WorkRow,
    storable_text,
)
from backend.store.requests import AcceptanceRequest
from backend.store.right_labels import RightLabel
from backend.store.shards import ShardRow

_OF_PROJECT = (
    WorkRow,
    SampleRow,
    ExampleRow,
    ProposalRow,
    ScoreRow,
    KnownAnnotation,
    KnownTask,
    Event,
    Run,
    SelectionGain,
    RefinementState,
    ShardRow,
    AcceptanceRequest,
    RightLabel,
    VerdictRow,
)


class Projects(Database):
    """The store's part about projects and events."""

    def join(self, project: int, stamp: str = "") -> None:
        """Note that `project` is ours to look after. Another `stamp` under the same id empties it first."""
        with self._write(durable=True) as connection:
            row = ProjectRow(project, stamp).columns()
            self._upsert(connection, ProjectRow, [row], keep_existing=True)
            connection.execute(sql.update(ProjectRow).where(ProjectRow.id == project).values(connected=True))
            self._take_stamp(connection, project, stamp)

    def is_another(self, project: int, stamp: str) -> bool:
        """Whether a stamp is that of another project than the one known under this number; not where either is not
        known. The same moment may be written otherwise."""
        before = str(self._of_project(project, ProjectRow.stamp) or "")
        return _differ(before, stamp)

    def take_stamp(self, project: int, stamp: str) -> None:
        """Empty what is known of `project` where its stamp is another; connects nothing."""
        with self._write() as connection:
            self._take_stamp(connection, project, stamp)

    def leave(self, project: int) -> None:
        """Note that `project` is not ours any more; what is known of it stays for when it joins again."""
        with self._write(durable=True) as connection:
            connection.execute(sql.update(ProjectRow).where(ProjectRow.id == project).values(connected=False))

    def forget(self, project: int) -> None:
        """Drop a project with all that is known of it."""
        with self._write() as connection:
            self._empty(connection, project)
            connection.execute(sql.delete(ProjectRow).where(ProjectRow.id == project))

    def projects(self, *, left: bool = False) -> list[int]:
        """Projects that are ours to look after; with `left` those that were, too."""
        query = sql.select(ProjectRow.id).order_by(ProjectRow.id)
        with self._read() as connection:
            return list(connection.scalars(query if left else query.where(ProjectRow.connected)))

    def served(self, project: int) -> str:
        """The prediction version in use, empty where nothing was ever scored."""
        return str(self._of_project(project, ProjectRow.served) or "")

    def set_served(self, project: int, version: str) -> None:
        """Note which prediction version is in use."""
        self._set_project(project, served=version)

    def cursor(self, project: int) -> str:
        """The largest `updated_at` of a task that a finished sync has seen, empty before the first."""
        return str(self._of_project(project, ProjectRow.cursor) or "")

    def synced_at(self, project: int) -> float:
        """When a sync last looked at every task, 0 before the first."""
        return float(self._of_project(project, ProjectRow.synced_at) or 0.0)

    def set_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at every task has seen."""
        self._set_project(project, cursor=cursor, synced_at=time.time())

    def advance_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at changes only has seen."""
        if cursor > self.cursor(project):
            self._set_project(project, cursor=cursor)

    def classes(self, project: int) -> list[str]:
        """The labels that the project's configuration offered when it was last looked at."""
        return list(self._of_project(project, ProjectRow.classes) or [])

    def set_classes(self, project: int, classes: Sequence[str]) -> None:
        """Note the labels that the project's configuration offers."""
        self._set_project(project, classes=[storable_text(name) for name in classes])

    # events

    def add_events(self, notes: Sequence[tuple[int, str, Sequence[int]]]) -> None:
        """Keep events of Label Studio's, all or none: the project, the action, and ids of what it was about."""
        rows = [
            {
                "project": project,
                "action": storable_text(action, 60),
                "subjects": list(subjects),
                "received_at": time.time(),
                "handled": False,
            }
            for project, action, subjects in notes
        ]
        with self._write() as connection:
            for part in parts(rows):
                connection.execute(sql.insert(Event), part)

    def open_events(self, project: int | None = None) -> list[Event]:
        """Events no sync has taken up yet, oldest first."""
        query = sql.select(Event).where(~Event.handled).order_by(Event.id)
        return self._all(query if project is None else query.where(Event.project == project))

    def handle_events(self, project: int, up_to: int, keep: int = 1000) -> None:
        """Mark events up to number `up_to` as taken up; of all such the last `keep` stay for the record."""
        mine = Event.project == project
        with self._write() as connection:
            connection.execute(sql.update(Event).where(mine, Event.id <= up_to).values(handled=True))
            connection.execute(sql.delete(Event).where(mine, Event.handled, Event.id <= up_to - keep))

    def _of_project(self, project: int, column: Any) -> Any:
        with self._read() as connection:
            return connection.scalar(sql.select(column).where(ProjectRow.id == project))

    def _set_project(self, project: int, **values: Any) -> None:
        with self._write() as connection:
            connection.execute(sql.update(ProjectRow).where(ProjectRow.id == project).values(**values))

    def _take_stamp(self, connection: Connection, project: int, stamp: str) -> None:
        before = connection.scalar(sql.select(ProjectRow.stamp).where(ProjectRow.id == project))
        if before is None or not stamp or before == stamp:
            return
        is_another = _differ(before, stamp)
        if is_another:
            self._empty(connection, project)
        fresh = {"cursor": "", "served": "", "synced_at": 0.0} if is_another else {}
        connection.execute(sql.update(ProjectRow).where(ProjectRow.id == project).values(stamp=stamp, **fresh))

    @staticmethod
    def _empty(connection: Connection, project: int) -> None:
        for kind in _OF_PROJECT:
            connection.execute(sql.delete(kind).where(kind.project == project))


def _differ(before: str, stamp: str) -> bool:
    """Whether two stamps, both known, are of different moments, by the second: another release may write them
    otherwise."""
    if not before or not stamp:
        return False
    first, second = _second_of(before), _second_of(stamp)
    return before != stamp if first is None or second is None else first != second


def _second_of(stamp: str) -> int | None:
    """The second of a time of Label Studio's; None where it is none."""
    try:
        moment = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)).timestamp())
