"""Records of runs, by which jobs judge what is done, and leases of what only one may do."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy.orm import InstrumentedAttribute

from backend.label_studio.records import Json
from backend.store.database import Database
from backend.store.records import Lease, Run, storable_text

LONGEST_LEASE_S = 3600.0
"""What is held for longer is free: its row is damaged, or a clock was far ahead."""
KEEP_RUNS = 500
"""Records kept of each job and project."""


class Runs(Database):
    """The store's part about runs and leases."""

    def start_run(self, project: int, job: str, *, fingerprint: str = "", total: int = 0) -> int:
        """Begin a run record; an earlier one of the same job still open is closed as cut short. Returns
        its number, which no later run gets, whatever happens: what it writes elsewhere carries it."""
        now = time.time()
        row = Run(project, job, "running", fingerprint, 0, total, "", {}, now, now, None).columns()
        del row["id"]
        mine = (Run.project == project, Run.job == job)
        with self._write(durable=True) as connection:
            connection.execute(
                sql.update(Run)
                .where(*mine, Run.state == "running")
                .values(state="interrupted", reason="the worker ended before it", finished_at=now)
            )
            ids = sql.select(Run.id).where(*mine).order_by(Run.id.desc())
            oldest = connection.scalar(ids.offset(KEEP_RUNS).limit(1))
            if oldest is not None:
                connection.execute(sql.delete(Run).where(*mine, Run.id <= oldest))
            key = connection.execute(sql.insert(Run).values(**row)).inserted_primary_key
        return int(key[0]) if key else 0

    def update_run(self, run: int, **values: Any) -> None:
        """Change `done`, `total`, `fingerprint`, `reason` or `details` of a run."""
        with self._write() as connection:
            connection.execute(sql.update(Run).where(Run.id == run).values(**values, changed_at=time.time()))

    def finish_run(self, run: int, state: str, reason: str = "", details: Mapping[str, Any] | None = None) -> None:
        """Close a run: `done`, `rejected`, `skipped` or `failed`, with the reason and figures."""
        now = time.time()
        values: Json = {"state": state, "reason": storable_text(reason, 2000), "finished_at": now}
        if details is not None:
            values["details"] = dict(details)
        self.update_run(run, **values)

    def is_running(self, run: int) -> bool:
        """Whether a run is still the one that is under way: a later one of its kind has not taken its place."""
        query = sql.select(Run.state).where(Run.id == run)
        with self._read() as connection:
            return connection.scalar(query) == "running"

    def ask_again(self, project: int, job: str, reason: str) -> None:
        """Note that a job is to be done again although nothing has changed: its last run counts as one that did not
        finish."""
        self.finish_run(self.start_run(project, job), "interrupted", reason)

    def runs(self, project: int | None = None, job: str | None = None, limit: int = 20) -> list[Run]:
        """Runs, newest first."""
        query = sql.select(Run).order_by(Run.id.desc()).limit(limit)
        if project is not None:
            query = query.where(Run.project == project)
        return self._all(query if job is None else query.where(Run.job == job))

    def last_run(self, project: int, job: str, states: Sequence[str] = ()) -> Run | None:
        """The newest run of a job, in one of `states` if given."""
        query = sql.select(Run).where(Run.project == project, Run.job == job)
        if states:
            query = query.where(Run.state.in_(list(states)))
        return next(iter(self._all(query.order_by(Run.id.desc()).limit(1))), None)

    # leases

    def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease `name` for `seconds`. False while another holder has it.

        `holder` is `host:pid`; a holder on this host that is dead loses its lease at once.
        """
        now = time.time()
        with self._write() as connection:
            if not self._sqlite:  # SQLite's write transactions are one after the other anyway
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(sql.func.hashtext(name))))
            held = sql.select(Lease.holder).where(Lease.name == name, is_held(Lease.until, now, LONGEST_LEASE_S))
            other = connection.scalar(held)
            if other is not None and other != holder and not is_dead(other):
                return False
            self._upsert(connection, Lease, [Lease(name, holder, now + seconds).columns()])
        return True

    def release(self, name: str, holder: str) -> None:
        """Give a lease back."""
        with self._write() as connection:
            connection.execute(sql.delete(Lease).where(Lease.name == name, Lease.holder == holder))


def is_held(until: InstrumentedAttribute[float], now: float, longest: float) -> sql.ColumnElement[bool]:
    """Whether what says `until` is held: not where it is no time at all, or further off than `longest` seconds."""
    return until.between(now, now + longest)


def is_dead(holder: str) -> bool:
    """Whether `holder` (`host:pid`) ran on this machine and is gone."""
    host, _, pid = holder.rpartition(":")
    return is_gone(host, pid)


def is_gone(host: str, pid: str) -> bool:
    """Whether a process ran on this machine and is gone. False for one of another host, and where nobody can tell."""
    if host != socket.gethostname() or not pid.isdecimal() or len(pid) > 9:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
