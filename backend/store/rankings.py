"""What the model said of each task, and the order that came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import sqlalchemy as sql

from backend.store.database import Database, parts
from backend.store.records import ProposalRow, ScoreRow
from backend.store.schema import proposals, scores


class Rankings(Database):
    """The store's part about proposals and places."""

    def proposal_keys(self, project: int) -> dict[int, str]:
        """Task -> key of what is cached for it."""
        query = sql.select(proposals.c.task, proposals.c.key).where(proposals.c.project == project)
        with self._read() as connection:
            return {row.task: row.key for row in connection.execute(query)}

    def proposal(self, project: int, task: int, key: str) -> ProposalRow | None:
        """What is cached for a task under `key`, else None."""
        query = sql.select(proposals).where(
            proposals.c.project == project, proposals.c.task == task, proposals.c.key == key
        )
        with self._read() as connection:
            row = connection.execute(query).first()
        return ProposalRow(row.task, row.key, row.arrays, json.loads(row.regions), row.reason) if row else None

    def proposal_rows(self, project: int, task_ids: Sequence[int]) -> dict[int, ProposalRow]:
        """What is cached for these tasks, whatever the key."""
        query = sql.select(proposals).where(proposals.c.project == project, proposals.c.task.in_(list(task_ids)))
        with self._read() as connection:
            return {
                row.task: ProposalRow(row.task, row.key, row.arrays, json.loads(row.regions), row.reason)
                for row in connection.execute(query)
            }

    def unreadable(self, project: int) -> dict[int, str]:
        """Task -> why the model could not be asked about it, of those it could not be asked about the last time."""
        query = sql.select(proposals.c.task, proposals.c.reason).where(
            proposals.c.project == project, proposals.c.reason != ""
        )
        with self._read() as connection:
            return {row.task: row.reason for row in connection.execute(query.order_by(proposals.c.task))}

    def put_proposal(self, project: int, row: ProposalRow) -> None:
        """Keep what the model said of one task, in place of what was kept before."""
        values = {
            "project": project,
            "task": row.task,
            "key": row.key,
            "arrays": row.arrays,
            "regions": json.dumps(row.regions, separators=(",", ":")),
            "reason": row.reason,
            "made_at": time.time(),
        }
        with self._write() as connection:
            self._upsert(connection, proposals, [values])

    def put_scores(self, project: int, rows: Sequence[ScoreRow]) -> None:
        """Replace the whole ranking of a project."""
        values = [
            {
                "project": project,
                "task": row.task,
                "version": row.version,
                "acquisition": row.acquisition,
                "confidence": row.confidence,
                "place": row.place,
                "is_audit": row.is_audit,
                "reason": row.reason,
            }
            for row in rows
        ]
        with self._write() as connection:
            connection.execute(scores.delete().where(scores.c.project == project))
            for part in parts(values):
                connection.execute(scores.insert(), part)

    def ranking(self, project: int, limit: int | None = None) -> list[ScoreRow]:
        """The last ranking, first to be served first."""
        query = sql.select(scores).where(scores.c.project == project).order_by(scores.c.place).limit(limit)
        with self._read() as connection:
            return [
                ScoreRow(
                    row.task,
                    row.version,
                    row.acquisition,
                    row.confidence,
                    row.place,
                    row.is_audit,
                    row.reason,
                )
                for row in connection.execute(query)
            ]
