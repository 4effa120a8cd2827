"""What was decided of a project: how its masks are selected, what refinements did, what the gate said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sql

from backend.store.database import Database
from backend.store.records import RefinementState, SelectionGain, VerdictRow
from usam.active.refinement import Gain
from usam.training.gate import Verdict


class Decisions(Database):
    """The store's part about decisions: columns of their own, whatever became of the runs that took them."""

    def selection_gain(self, project: int, version: str) -> Gain | None:
        """What selecting masks by this head set's predicted IoU gained, as measured last; None where nobody did."""
        query = sql.select(SelectionGain).where(SelectionGain.project == project, SelectionGain.version == version)
        return next((row.gain for row in self._all(query)), None)

    def put_selection_gains(self, project: int, run: int, gains: Mapping[str, Gain]) -> None:
        """Keep what the retraining `run` measured of each head set, in place of earlier measurements of it."""
        rows = [SelectionGain(version, run, **asdict(gain)).columns(project=project) for version, gain in gains.items()]
        with self._write() as connection:
            self._upsert(connection, SelectionGain, rows)

    def refinements(self, project: int) -> dict[str, RefinementState]:
        """Action -> what it did of a project's pool so far, and whether it is suspended."""
        query = sql.select(RefinementState).where(RefinementState.project == project).order_by(RefinementState.action)
        return {row.action: row for row in self._all(query)}

    def put_refinements(self, project: int, run: int, report: Mapping[Any, Mapping[str, Any]]) -> None:
        """Keep what the ranking `run` reports of its actions, in place of earlier reports."""
        rows = [RefinementState.of(action, run, figures).columns(project=project) for action, figures in report.items()]
        with self._write() as connection:
            self._upsert(connection, RefinementState, rows)

    def verdicts(self, project: int, limit: int = 20) -> list[VerdictRow]:
        """What the gate said of candidates, newest first."""
        query = sql.select(VerdictRow).where(VerdictRow.project == project)
        return self._all(query.order_by(VerdictRow.run.desc()).limit(limit))

    def put_verdict(self, project: int, run: int, candidate: str, verdict: Verdict) -> None:
        """Keep what the gate said in the retraining `run` of the head set `candidate`."""
        row = VerdictRow(run, project, **asdict(verdict), candidate=candidate, judged_at=time.time())
        with self._write() as connection:
            self._upsert(connection, VerdictRow, [row.columns()])
