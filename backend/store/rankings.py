"""What the model said of each task, and the order that came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sql

from backend.store.database import Database, parts
from backend.store.labels import IS_OPEN
from backend.store.records import KnownTask, ProposalRow, ScoreRow


class Rankings(Database):
    """The store's part about proposals and places."""

    def proposal_keys(self, project: int, only: Sequence[int] | None = None) -> dict[int, str]:
        """Task -> key of what is cached for it; with `only` of these few."""
        query = sql.select(ProposalRow.task, ProposalRow.key).where(ProposalRow.project == project)
        if only is not None:
            query = query.where(ProposalRow.task.in_(list(only)))
        with self._read() as connection:
            return {row.task: row.key for row in connection.execute(query)}

    def proposal_rows(self, project: int, task_ids: Sequence[int]) -> dict[int, ProposalRow]:
        """What is cached for these tasks, whatever the key."""
        query = sql.select(ProposalRow).where(ProposalRow.project == project, ProposalRow.task.in_(list(task_ids)))
        return {row.task: row for row in self._all(query)}

    def unreadable(self, project: int) -> dict[int, str]:
        """Task -> why the model could not be asked about it, of those it could not be asked about the last time."""
        failed = (ProposalRow.project == project, ProposalRow.reason != sql.literal_column("''"))
        query = sql.select(ProposalRow.task, ProposalRow.reason).where(*failed).order_by(ProposalRow.task)
        with self._read() as connection:
            return {row.task: row.reason for row in connection.execute(query)}

    def put_proposal(self, project: int, row: ProposalRow) -> None:
        """Keep what the model said of one task, in place of what was kept before."""
        with self._write() as connection:
            self._upsert(connection, ProposalRow, [row.columns(project=project, made_at=time.time())])

    def put_scores(self, project: int, rows: Sequence[ScoreRow]) -> None:
        """Replace the whole ranking of a project."""
        values = [row.columns(project=project) for row in rows]
        with self._write() as connection:
            connection.execute(sql.delete(ScoreRow).where(ScoreRow.project == project))
            for part in parts(values):
                connection.execute(sql.insert(ScoreRow), part)

    def ranking(self, project: int, limit: int | None = None) -> list[ScoreRow]:
        """The last ranking, first to be served first."""
        query = sql.select(ScoreRow).where(ScoreRow.project == project)
        return self._all(query.order_by(ScoreRow.place).limit(limit))

    def unranked(self, project: int) -> tuple[int, int]:
        """How many tasks Label Studio would still serve, and how many of them have no place."""
        placed = sql.exists().where(ScoreRow.project == KnownTask.project, ScoreRow.task == KnownTask.id)
        count = sql.select(sql.func.count()).select_from(KnownTask).where(KnownTask.project == project, *IS_OPEN)
        with self._read() as connection:
            return int(connection.scalar(count) or 0), int(connection.scalar(count.where(~placed)) or 0)

    def ranked_among(self, project: int, task_ids: Sequence[int]) -> set[int]:
        """Which of these few tasks have a place in the last ranking."""
        query = sql.select(ScoreRow.task).where(ScoreRow.project == project, ScoreRow.task.in_(list(task_ids)))
        with self._read() as connection:
            return set(connection.scalars(query))

    def place(self, project: int, task: int) -> ScoreRow | None:
        """The place of a task in the last ranking, None where it has none."""
        found = self._all(sql.select(ScoreRow).where(ScoreRow.project == project, ScoreRow.task == task))
        return found[0] if found else None
