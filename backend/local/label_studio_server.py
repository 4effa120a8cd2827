"""A private, headless Label Studio: its environment, its account, its start and stop.

SQLite, local files, no phone-home. Backends and webhooks on this machine are allowed, which Label Studio
1.23 blocks by default. The account is made at the first start and kept beside the data, readable by its
owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from backend.errors import ServerError
from backend.local.processes import Server, ServerProcess, free_port
from backend.store.kept_twice import read_either, write_twice
from usam.files import open_lock

LABEL_STUDIO_VERSION = "1.23.2"
ENVIRONMENT_NAME = ".venv-label-studio"
SHORT_IMPORTS = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"
"""Label Studio's own switch: after an import of predictions it counts these tasks again, not all of the project."""


@dataclass(frozen=True)
class Account:
    """Who may enter. `token` is a legacy token: one that never expires and needs no refresh."""

    username: str
    password: str = field(repr=False)
    token: str = field(repr=False)

    @classmethod
    def of_folder(cls, folder: Path) -> Account:
        """The account kept in `folder`, made at random on first use. Raises `ServerError`."""
        path = folder / "account.json"
        try:
            return read_either(path, cls._parse)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ServerError(
                f"an account in {path}", type(error).__name__, "restore the file, or move the folder away"
            ) from error
        account = cls("admin@example.com", secrets.token_urlsafe(12), secrets.token_hex(20))
        write_twice(path, json.dumps(asdict(account)).encode())
        return account

    @classmethod
    def _parse(cls, content: bytes) -> Account:
        try:
            account = cls(**json.loads(content))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if not all(isinstance(part, str) and part.isprintable() and part for part in asdict(account).values()):
            raise ValueError("a name, a password and a token are texts")
        return account


FIRST_START_S, LATER_START_S = 900.0, 240.0
"""How long Label Studio may take to come up, on new data and on data that it has run on."""


def find_label_studio(root: Path) -> Path | None:
    """The `label-studio` program: $USAM_LABEL_STUDIO (program or environment), else `root`'s own where its
    installation came to its end, else None."""
    given = os.environ.get("USAM_LABEL_STUDIO", "")
    if given:
        place = Path(given)
        program = place / "bin" / "label-studio" if place.is_dir() else place
        if os.access(program, os.X_OK) and program.is_file():
            return program
    return _whole(root / ENVIRONMENT_NAME, LABEL_STUDIO_VERSION)


def _whole(folder: Path, version: str) -> Path | None:
    """The program of an environment that has its marker, which is written last: else it was cut short, or another
    process is at it."""
    program = folder / "bin" / "label-studio"
    return program if _marker(folder, version).exists() and os.access(program, os.X_OK) else None


def _marker(folder: Path, version: str) -> Path:
    return folder / f".label-studio-{version}"


def install_label_studio(
    root: Path, *, version: str = LABEL_STUDIO_VERSION, say: Callable[[str], None] = lambda line: None
) -> Path:
    """`label-studio` in an environment of its own under `root`, installed where it is missing (1-2 minutes).

    Of several processes at once one installs, the others wait for it. Raises `ServerError` with the end of the
    installer's output, or where `root` cannot be made or written.
    """
    folder = root / ENVIRONMENT_NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        opened = open_lock(root / f"{ENVIRONMENT_NAME}.lock")
    except OSError as error:
        raise ServerError(
            f"a folder for Label Studio at {root}", error.strerror or str(error), "name another, or correct its rights"
        ) from error
    with opened as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (program := _whole(folder, version)) is not None:
            return program
        say(f"installing Label Studio {version} into {folder} (a minute or two)")
        shutil.rmtree(folder, ignore_errors=True)
        _make_environment(folder, version)
        _marker(folder, version).touch()
    return folder / "bin" / "label-studio"


def _make_environment(folder: Path, version: str) -> None:
    base = getattr(sys, "_base_executable", None) or sys.executable
    quiet = ["--quiet", "--disable-pip-version-check"]
    for command in (
        [base, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", *quiet, f"label-studio=={version}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (ours)
        if done.returncode:
            raise ServerError(
                f"Label Studio {version} to install", done.stderr.strip()[-500:], "check the network and start again"
            )


def holds_projects_table(database: Path) -> bool:
    """Whether a SQLite file has the table of projects; one that cannot be read counts as having it."""
    try:
        return _finds(database, "SELECT 1 FROM sqlite_master WHERE name = 'project'")
    except sqlite3.Error:
        return True


def has_projects(database: Path) -> bool:
    """Whether a Label Studio's SQLite database holds a project. What cannot be read counts as holding one, unless it
    is empty: nothing that may be somebody's work is moved."""
    try:
        return holds_projects_table(database) and _finds(database, "SELECT 1 FROM project LIMIT 1")
    except sqlite3.Error:
        return database.stat().st_size > 0


def _finds(database: Path, query: str) -> bool:
    """Whether a query finds anything. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(query).fetchone() is not None


class LabelStudioServer(Server):
    """Label Studio on the data in `folder`.

    `files` is the folder whose sub-folders can be served as local files; `is_new` tells whether its account is yet to
    be made.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        files: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.program, self.folder, self.host, self.say = program, folder.resolve(), host, say
        self.is_new = not (self.folder / "account.json").exists()
        self.files = (files or self.folder / "files").resolve()
        self.port = port
        self._account: Account | None = None

    @property
    def url(self) -> str:
        """Address without a slash at its end; known once started."""
        return f"http://{self.host}:{self.port}"

    @property
    def account(self) -> Account:
        """The first user, kept in the folder."""
        if self._account is None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._account = Account.of_folder(self.folder)
        return self._account

    @property
    def database(self) -> Path:
        """Its SQLite file."""
        return self.folder / "data" / "label_studio.sqlite3"

    @property
    def _note(self) -> Path:
        """There once it has run: then the database holds somebody's work."""
        return self.folder / "data" / "has-run.txt"

    def start(self, timeout: float | None = None) -> LabelStudioServer:
        """Start and wait for /health: 30-40 s on new data, 5 s later; at most `timeout`, without one for as long as a
        busy machine takes, so that half-made tables are not thrown away meanwhile. Raises `ServerError`.

        A first start that was interrupted leaves a database that is half made. Where it keeps Label Studio from
        coming up, and nobody has made a project in it, it is set aside and made anew, with a word.
        """
        self._check_kept()
        if timeout is None:
            timeout = LATER_START_S if self._note.exists() else FIRST_START_S
        try:
            self._start(timeout)
        except ServerError as error:
            aside = self._set_aside_unfinished()
            if not aside:
                self._check_database(error)
                raise
            self.say(
                f"an earlier first start of Label Studio was interrupted; begun anew, its database kept as {aside}"
            )
            self._start(timeout)
        return self

    def restart(self) -> None:
        """Start it again at the same address. Raises `ServerError` where another program has taken its port."""
        self._check_kept()
        if free_port(self.port, self.host) != self.port:
            raise ServerError(f"port {self.port}, where Label Studio was", "another program on it", "end that program")
        self._start(LATER_START_S)

    def _start(self, timeout: float, *, again: bool = True) -> None:
        self.stop()
        account = self.account
        self.files.mkdir(parents=True, exist_ok=True)
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port, self.host)
        command = [str(self.program), "start", "--no-browser", "--internal-host", self.host]
        self._process = ServerProcess(
            "Label Studio",
            [*command, "--port", str(self.port)],
            log=self.folder / "label-studio.log",
            environment=self._environment(account),
            say=self.say,
        )
        self._process.start(self.answers, timeout)
        if not self._knows_account():
            self.stop()
            if again and free_port(self.port, self.host) != self.port:  # another one was faster at this port
                return self._start(timeout, again=False)
            raise ServerError(
                "Label Studio to know the account that was made for it",
                "a refusal",
                f"its account is in {self.folder / 'account.json'}, its log in {self._process.log}",
            )
        if not self._note.exists():
            self._note.write_text("Label Studio has run on the database here: no other is begun in its place.\n")

    def _check_kept(self) -> None:
        """Raise `ServerError` where a database that was there at an earlier start is gone or empty: Label Studio would
        begin without projects, and without a word; or where something else than a file is in its place."""
        if self.database.exists() and not self.database.is_file():
            raise ServerError(f"a file at {self.database}", "something else", "move it away, and put a copy back")
        if not self._note.exists():
            return
        got = "none"
        if self.database.is_file():
            got = "" if holds_projects_table(self.database) else "a file without its tables"
        if got:
            remedy = f"put a copy of it back; to begin without projects, remove {self._note}"
            raise ServerError(f"the Label Studio database of earlier starts, {self.database}", got, remedy)

    def _knows_account(self) -> bool:
        headers = {"Authorization": f"Token {self.account.token}"}
        try:
            return httpx.get(f"{self.url}/api/current-user/whoami", headers=headers, timeout=30).status_code == 200
        except httpx.HTTPError:
            return True  # no answer is no refusal

    def _set_aside_unfinished(self) -> str:
        """Move a database away in which nobody has made anything; returns its new name, empty where it stays."""
        database = self.database
        if not database.exists() or has_projects(database):
            return ""
        target = database.with_name(f"{database.name}.unfinished-{time.time_ns()}")
        os.replace(database, target)
        for suffix in ("-wal", "-shm", "-journal"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        return str(target)

    def _check_database(self, cause: ServerError) -> None:
        """Raise `ServerError` where it is the database that keeps Label Studio from coming up."""
        from backend.store.mending import damage_of

        database = self.database
        if database.exists() and (reason := damage_of(database)):
            raise ServerError(
                f"a Label Studio database that can be read in {database}",
                reason,
                "put a copy of it back; where it is moved away, Label Studio begins without projects",
            ) from cause
        if refused := re.search(r"django\.db\.[\w.]+: .*", str(cause)):
            raise ServerError(
                f"a Label Studio database that its own release can use in {database}",
                refused[0][:200],
                "put a copy of it back, or ask Label Studio's makers; nobody's work in it was moved",
            ) from cause

    def answers(self) -> bool:
        """Whether it says it is healthy."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def _environment(self, account: Account) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return kept | {
            "DJANGO_DB": "sqlite",
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder / "data"),
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_USERNAME": account.username,
            "LABEL_STUDIO_PASSWORD": account.password,
            "LABEL_STUDIO_USER_TOKEN": account.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files),
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "FEATURE_FLAGS_OFFLINE": "true",
            "ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            SHORT_IMPORTS: "true",
        }
