"""A private, real PostgreSQL, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

Mode = str
"""How a server is stopped: `fast` ends its connections, `immediate` is as if it was killed."""


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them out of the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


class PostgresServer:
    """A server in a folder of its own, reached by its socket alone. Not as root, which it refuses."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.folder = Path(tempfile.mkdtemp(prefix="usam-pg-"))  # a socket's path may not be long
        if os.getuid() == 0:
            shutil.chown(self.folder, self._user)
        self._do("initdb", "-U", "usam", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()

    def address(self, database: str) -> str:
        """The address of one of its databases."""
        return f"postgresql+psycopg://usam@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Make a database; returns its address."""
        import sqlalchemy as sql

        engine = sql.create_engine(self.address("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {database} OWNER usam"))
        engine.dispose()
        return self.address(database)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        self._do("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self, mode: Mode = "immediate") -> None:
        """Stop it."""
        self._do("pg_ctl", "stop", "-m", mode)

    def remove(self) -> None:
        """Stop it and delete what it has."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _do(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self.folder / "data", *arguments]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self.folder)
