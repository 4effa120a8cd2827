"""A private, real PostgreSQL, where its programs are installed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, postgres_programs


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
