"""A SQLite store that is damaged is set aside and begun anew: what it held is in Label Studio, and is fetched again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from backend.store import Store

BESIDE = ("", "-wal", "-shm")


def damage_of(database: Path) -> str:
    """Why a SQLite file cannot be used, empty where it can; reads all of it."""
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if verdict == "ok" else verdict.splitlines()[0]


def mend_store(database: Path, projects: Sequence[int]) -> list[str]:
    """Begin a damaged store anew; returns what was done, a line each.

    One that was begun anew, or that names no project at all, is told to look after `projects` and those that the
    damaged one still names. The next sync fetches annotations again; the next ranking asks the model again.
    Raises `OSError` where files cannot be moved.
    """
    lines = []
    known = _projects_in(database)
    if database.exists() and (reason := damage_of(database)):
        stamp = time.time_ns()
        for suffix in BESIDE:
            path = database.with_name(database.name + suffix)
            if path.exists():
                os.replace(path, database.with_name(f"{database.name}.damaged-{stamp}{suffix}"))
        lines.append(f"{database.name} set aside as {database.name}.damaged-{stamp}: {reason}")
    store = Store(f"sqlite:///{database}")
    try:
        for project in [] if store.projects(left=True) else sorted({*projects, *known}):
            store.join(project, known.get(project, ""))
            lines.append(f"project {project} is looked after again; its annotations are fetched by the next sync")
    finally:
        store.close()
    return lines


def _projects_in(database: Path) -> dict[int, str]:
    """Project -> stamp, as far as a damaged store can still be read."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {int(number): str(stamp) for number, stamp in connection.execute("SELECT id, stamp FROM projects")}
    return {}
