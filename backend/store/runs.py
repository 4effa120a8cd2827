"""Records of runs, by which jobs judge what is done, and leases of what only one may do."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql

from backend.label_studio.records import Json
from backend.store.database import Database
from backend.store.records import Run
from backend.store.schema import leases, runs

KEEP_RUNS = 500
"""Records kept of each job and project."""


class Runs(Database):
    """The store's part about runs and leases."""

    def start_run(self, project: int, job: str, *, fingerprint: str = "", total: int = 0) -> int:
        """Begin a run record; an earlier one of the same job still open is closed as cut short. Returns
        its number."""
        now = time.time()
        row = {
            "project": project,
            "job": job,
            "state": "running",
            "fingerprint": fingerprint,
            "done": 0,
            "total": total,
            "reason": "",
            "details": "{}",
            "started_at": now,
            "changed_at": now,
            "finished_at": None,
        }
        with self._write() as connection:
            connection.execute(
                runs.update()
                .where(runs.c.project == project, runs.c.job == job, runs.c.state == "running")
                .values(state="interrupted", reason="the worker ended before it", finished_at=now)
            )
            mine = sql.select(runs.c.id).where(runs.c.project == project, runs.c.job == job)
            oldest = connection.scalar(mine.order_by(runs.c.id.desc()).offset(KEEP_RUNS).limit(1))
            if oldest is not None:
                connection.execute(
                    runs.delete().where(runs.c.project == project, runs.c.job == job, runs.c.id <= oldest)
                )
            key = connection.execute(runs.insert().values(**row)).inserted_primary_key
        return int(key[0]) if key else 0

    def update_run(self, run: int, **values: Any) -> None:
        """Change `done`, `total`, `fingerprint`, `reason` or `details` of a run."""
        if "details" in values:
            values["details"] = json.dumps(values["details"], sort_keys=True)
        with self._write() as connection:
            connection.execute(runs.update().where(runs.c.id == run).values(**values, changed_at=time.time()))

    def finish_run(self, run: int, state: str, reason: str = "", details: Mapping[str, Any] | None = None) -> None:
        """Close a run: `done`, `rejected`, `skipped` or `failed`, with the reason and figures."""
        now = time.time()
        values: Json = {"state": state, "reason": reason[:2000], "changed_at": now, "finished_at": now}
        if details is not None:
            values["details"] = json.dumps(dict(details), sort_keys=True)
        with self._write() as connection:
            connection.execute(runs.update().where(runs.c.id == run).values(**values))

    def runs(self, project: int | None = None, job: str | None = None, limit: int = 20) -> list[Run]:
        """Runs, newest first."""
        query = sql.select(runs).order_by(runs.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where(runs.c.project == project)
        if job is not None:
            query = query.where(runs.c.job == job)
        with self._read() as connection:
            return [Run.of_row(row) for row in connection.execute(query)]

    def last_run(self, project: int, job: str, states: Sequence[str] = ()) -> Run | None:
        """The newest run of a job, in one of `states` if given."""
        query = sql.select(runs).where(runs.c.project == project, runs.c.job == job)
        if states:
            query = query.where(runs.c.state.in_(list(states)))
        with self._read() as connection:
            row = connection.execute(query.order_by(runs.c.id.desc()).limit(1)).first()
        return Run.of_row(row) if row else None

    # leases

    def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease `name` for `seconds`. False while another holder has it.

        `holder` is `host:pid`; a holder on this host that is dead loses its lease at once.
        """
        now = time.time()
        with self._write() as connection:
            if not self._sqlite:  # SQLite's write transactions are one after the other anyway
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(sql.func.hashtext(name))))
            query = sql.select(leases.c.holder, leases.c.until).where(leases.c.name == name)
            row = connection.execute(query).first()
            if row is not None and row.holder != holder and row.until > now and not _is_dead(row.holder):
                return False
            self._upsert(connection, leases, [{"name": name, "holder": holder, "until": now + seconds}])
        return True

    def release(self, name: str, holder: str) -> None:
        """Give a lease back."""
        with self._write() as connection:
            connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))


def _is_dead(holder: str) -> bool:
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
