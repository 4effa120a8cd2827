"""New stores in a moment; and a private, real PostgreSQL, where its programs are installed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from backend.store import database
from tests.new_store import migrate
from tests.postgres_server import PostgresServer, postgres_programs


@pytest.fixture(autouse=True)
def quick_new_stores() -> Iterator[None]:
    """The migrations run once a session for all new SQLite stores; `store/test_migrations.py` runs them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "migrate", migrate)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of this session's own."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    server = PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The address of a fresh database."""
    return postgres.create(f"test_{uuid.uuid4().hex}")
