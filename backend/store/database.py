"""One database as the store uses it: opened, brought to this release's tables, read and written in transactions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from backend.errors import StoreError
from backend.label_studio.records import Json
from backend.store.migrations import HEAD, migrate, revision_of
from backend.store.records import Row, RowOf

BUSY_MS = 30_000
STORE_ERRORS = (StoreError, sql.exc.SQLAlchemyError)
"""What is raised where a store does not answer, as while its server starts again. Whoever can do without it, does."""
_BATCH = 500


class Database:
    """The database at `url` (SQLAlchemy), made on first use. Safe to share between threads and processes.

    Raises `StoreError` where it cannot be opened or was made by a newer release.
    """

    def __init__(self, url: str | sql.URL) -> None:
        self._engine = _open(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        try:
            with self._read() as connection:
                current = revision_of(connection) == HEAD
            if not current:
                with self._write() as connection:
                    migrate(connection)
        except sql.exc.SQLAlchemyError as error:
            self.close()
            raise StoreError(
                "a store that opens",
                type(error).__name__,
                "check USAM_DATABASE_URL and the folder's rights, or run `usam-backend repair`",
            ) from error
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _holdable(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[Connection]:
        """One transaction. SQLite's is immediate: it waits for its turn instead of failing half-way; and what is
        `durable`, with all before it, survives a loss of power once this returns. Other databases always do so."""
        with self._engine.connect() as connection:
            if self._sqlite:
                connection = connection.execution_options(usam_immediate=True, usam_durable=durable)
            with _holdable(), connection.begin():
                yield connection

    def _all(self, query: sql.Select[RowOf]) -> list[RowOf]:
        """The records that a query finds."""
        with _holdable(), Session(self._engine) as session:
            return list(session.scalars(query))

    def _upsert(
        self,
        connection: Connection,
        kind: type[Row],
        rows: Sequence[Json],
        *,
        keep_existing: bool = False,
        keep: Sequence[str] = (),
    ) -> None:
        if self._sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        table = cast(sql.Table, kind.__table__)
        keys = [column.name for column in table.primary_key]
        for part in parts(rows):
            statement = insert(table)
            if keep_existing:
                connection.execute(statement.on_conflict_do_nothing(index_elements=keys), part)
                continue
            rest = {name: statement.excluded[name] for name in part[0] if name not in (*keys, *keep)}
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest), part)


@contextmanager
def _holdable() -> Iterator[None]:
    """What no store can hold is said as that, whether it was to be written or to be looked for."""
    try:
        yield
    except (sql.exc.DataError, sql.exc.IntegrityError, OverflowError, UnicodeError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0][:200]
        raise StoreError("what a store can hold", reason, "it is left out") from error


def _open(url: str | sql.URL) -> Engine:
    try:
        parsed = sql.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sql.create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (sql.exc.ArgumentError, sql.exc.NoSuchModuleError, ImportError, OSError) as error:
        raise StoreError(
            "a store address that SQLAlchemy can open", type(error).__name__, "correct USAM_DATABASE_URL"
        ) from error
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _prepare_sqlite)
        sql.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('usam_durable') else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("usam_immediate") else "BEGIN")


def parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in portions that one statement can carry."""
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]
