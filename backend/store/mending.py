"""A SQLite store that is damaged is set aside and begun anew: what it held is in Label Studio, and is fetched again.
What lies in a data folder where a file or a folder of another kind belongs is set aside too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sql

from backend.errors import StoreError
from backend.store import Store
from usam.files import move_aside

BESIDE = ("", "-wal", "-shm")
FOLDERS = ("heads", "inbox", "embeddings", "thumbnails", "plans", "reviews", "absent", "pseudo_labels", "logs")
"""Folders of a data folder that usam alone writes."""
FILES = ("usam.db", "up.json", "up.json.copy", "up.env", "page-actions.jsonl", "label-studio/account.json")
FILE_ENDINGS = (".json", ".jsonl", ".safetensors", ".copy", ".jpg", ".log")
_log = logging.getLogger(__name__)


def damage_of(database: Path) -> str:
    """Why a SQLite file cannot be used, empty where it can; reads all of it. Raises `OSError` where it may not be read
    or written, and `StoreError` where another program has it locked: neither is damage."""
    database.open("r+b").close()
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise StoreError(f"{database} for this command alone", str(error), "end what uses it") from error
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
    store = Store(sql.URL.create("sqlite", database=str(database)))
    try:
        for project in [] if store.projects(left=True) else sorted({*projects, *known}):
            store.join(project, known.get(project, ""))
            lines.append(f"project {project} is looked after again; its annotations are fetched by the next sync")
    finally:
        store.close()
    return lines


def _projects_in(database: Path) -> dict[int, str]:
    """Project -> stamp, as far as a damaged store can still be read."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection,
    ):
        return {int(number): str(stamp) for number, stamp in connection.execute("SELECT id, stamp FROM projects")}
    return {}


def set_aside_misplaced(folder: Path) -> list[str]:
    """Move aside what stands in a data folder where something of another kind belongs: a folder for a file, a file for
    a folder, a named pipe, socket, device or dead link for either. Returns a line each.

    Looks only where usam alone writes. Raises `OSError` where something cannot be moved.
    """
    wrong = [path for name in FILES if (path := folder / name).is_symlink() or path.exists() if not path.is_file()]
    for name in FOLDERS:
        path = folder / name
        if path.is_dir():
            wrong += _misplaced_in(path)
        elif path.is_symlink() or path.exists():
            wrong.append(path)
    lines = []
    for path in wrong:
        with suppress(FileNotFoundError):  # another process was faster
            name = move_aside(path).name
            lines.append(f"{path} is of another kind than what belongs there: set aside as {name}")
            _log.warning("%s", lines[-1])
    return lines


def _misplaced_in(folder: Path) -> list[Path]:
    """What is wrong in a folder and those below it; links to folders, as to another disk, are not followed."""
    found: list[Path] = []
    with suppress(PermissionError, FileNotFoundError):
        for path in folder.iterdir():
            if ".damaged" in path.name or path.is_file() or (path.is_symlink() and path.is_dir()):
                continue
            if stat.S_ISDIR(path.lstat().st_mode) and not path.name.endswith(FILE_ENDINGS):
                found += _misplaced_in(path)
            else:
                found.append(path)
    return found
