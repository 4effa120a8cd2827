"""How a store made by an earlier release becomes one of this release: one step a file in `versions`, run by Alembic.

A step is one transaction on SQLite and PostgreSQL alike: whoever is killed at whatever point leaves the store before or
after. Before an SQLite file is changed, a copy of it is kept beside it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from backend.errors import StoreError

HEAD = "0009"
"""The newest revision."""
FOLDER = Path(__file__).parent
_LOCK = 0x7573616D
"""Number of PostgreSQL's advisory lock: one process migrates, the others wait for it."""
_log = logging.getLogger(__name__)


def revision_of(connection: Connection) -> str:
    """The revision of a store: `0001` for one from before there were migrations, empty for a new one."""
    tables = sql.inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return str(connection.scalar(sql.text("SELECT version_num FROM alembic_version")) or "")
    if "about" not in tables:
        return ""
    made_by = connection.scalar(sql.text("SELECT value FROM about WHERE name = 'schema'"))
    return "0001" if made_by in ("1", None) else f"schema {made_by}"


def migrate(connection: Connection) -> None:
    """Bring a store to `HEAD` inside the transaction of `connection`, alone of all processes.

    Raises `StoreError` for a store of a newer release, and where the copy of an SQLite file cannot be kept.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(sql.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = revision_of(connection)
    if before == HEAD:  # another process was faster
        return
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    kept = None
    if before:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if before not in known:
            raise StoreError(
                f"a store of revision {HEAD} or older",
                before,
                "use the release that wrote it last, or a copy from before",
            )
        kept = _keep_copy(connection)
    if before == "0001":
        command.stamp(config, before)
    command.upgrade(config, "head")
    if before:
        copy = f"; as it was before, it is in {kept}" if kept is not None else ""
        _log.warning("the store was brought from revision %s to %s%s", before, HEAD, copy)


def _keep_copy(connection: Connection) -> Path | None:
    """A copy of an SQLite file as it is before this transaction, whole or not at all; None for other stores."""
    database = connection.engine.url.database
    if connection.dialect.name != "sqlite" or database in (None, "", ":memory:"):
        return None
    path = Path(str(database))
    target = path.with_name(f"{path.name}.before-{HEAD}")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
        source, copy = sqlite3.connect(path), sqlite3.connect(partial)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        finally:
            source.close()
            copy.close()
        os.replace(partial, target)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"room and rights to write {target.name}", str(error), "free space or correct them") from error
    finally:
        partial.unlink(missing_ok=True)
    return target
