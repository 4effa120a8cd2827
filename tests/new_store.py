"""A new SQLite store in a fraction of the time: what the migrations make of an empty one, written at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from backend.store import migrations


def migrate(connection: Connection) -> None:
    """As `backend.store.migrations.migrate`, which is what runs for any store but a new one on SQLite."""
    if connection.dialect.name != "sqlite" or migrations.revision_of(connection):
        migrations.migrate(connection)
        return
    for statement in new_store():
        connection.exec_driver_sql(statement)


@cache
def new_store() -> tuple[str, ...]:
    """The statements that make a store as the migrations, run once for this, leave it."""
    engine = sql.create_engine("sqlite://")
    with engine.connect() as connection:
        with connection.begin():
            migrations.migrate(connection)
        driver: Any = connection.connection.driver_connection
        statements = tuple(driver.iterdump())
    engine.dispose()
    assert (statements[0], statements[-1]) == ("BEGIN TRANSACTION;", "COMMIT;")
    return statements[1:-1]
