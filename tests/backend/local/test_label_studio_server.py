"""The account and the environment of a private Label Studio. Its start is in tests/e2e."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import ServerError
from backend.local import label_studio_server
from backend.local.label_studio_server import (
    LABEL_STUDIO_VERSION,
    SHORT_IMPORTS,
    Account,
    LabelStudioServer,
    find_label_studio,
    install_label_studio,
)


def test_the_account_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    account = Account.of_folder(tmp_path)
    assert Account.of_folder(tmp_path) == account
    assert len(account.token) == 40
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0
    assert account.password not in repr(account)
    assert account.token not in repr(account)
    other = tmp_path / "other"
    other.mkdir()
    assert Account.of_folder(other).token != account.token


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"username": "x"}', b"\xff\x00"])
def test_a_damaged_account_is_mended_from_its_copy_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    account = Account.of_folder(tmp_path)
    (tmp_path / "account.json").write_bytes(content)
    assert Account.of_folder(tmp_path) == account
    for name in ("account.json", "account.json.copy"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ServerError, match="restore the file"):
        Account.of_folder(tmp_path)


def label_studio_database(folder: Path, *rows: str) -> Path:
    path = folder / "data" / "label_studio.sqlite3"
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    for row in rows:
        connection.execute(row)
    connection.commit()
    connection.close()
    return path


UNFINISHED: dict[str, tuple[str, ...]] = {
    "empty": (),
    "without projects": ("CREATE TABLE django_migrations (id)",),
    "with none yet": ("CREATE TABLE project (id)",),
}


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_database_that_keeps_it_from_coming_up_is_set_aside_where_nobody_made_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    path = label_studio_database(tmp_path, *UNFINISHED[state])
    said: list[str] = []
    server = LabelStudioServer(Path("label-studio"), tmp_path, say=said.append)

    def start(timeout: float) -> None:
        if path.exists():
            raise ServerError("Label Studio to come up", "no such table: htx_user", "see its log")

    monkeypatch.setattr(server, "_start", start)
    server.start()
    (aside,) = path.parent.glob("*.unfinished-*")
    assert aside.name in said[0]
    assert "interrupted" in said[0]


@pytest.mark.parametrize("damage", ["a project", "garbage"])
def test_a_database_that_may_hold_somebodys_work_is_never_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = label_studio_database(tmp_path, "CREATE TABLE project (id)", "INSERT INTO project VALUES (1)")
    if damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    server = LabelStudioServer(Path("label-studio"), tmp_path)

    def start(timeout: float) -> None:
        raise ServerError("Label Studio to come up", "exit status 1", "see its log")

    monkeypatch.setattr(server, "_start", start)
    with pytest.raises(ServerError, match="exit status 1" if damage == "a project" else "not a database"):
        server.start()
    assert path.exists()


def test_secrets_travel_in_the_environment_and_nothing_phones_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    server = LabelStudioServer(Path("label-studio"), tmp_path)
    told = server._environment(server.account)
    assert told["LABEL_STUDIO_USER_TOKEN"] == server.account.token
    assert (told["SENTRY_DSN"], told["COLLECT_ANALYTICS"], told["LATEST_VERSION_CHECK"]) == ("", "false", "false")
    assert told["SSRF_PROTECTION_ENABLED"] == told["ML_BLOCK_LOCAL_IP"] == "false"
    assert "PYTHONPATH" not in told
    assert told[SHORT_IMPORTS] == "true"


def test_two_processes_install_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, begun = tmp_path / "new" / "folder", list[Path]()

    def make_slowly(folder: Path, version: str) -> None:
        begun.append(folder)
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "label-studio"
        program.touch(0o755)
        assert find_label_studio(root) is None
        time.sleep(0.2)

    monkeypatch.delenv("USAM_LABEL_STUDIO", raising=False)
    monkeypatch.setattr(label_studio_server, "_make_environment", make_slowly)
    with ThreadPoolExecutor(3) as threads:
        programs = list(threads.map(lambda _: install_label_studio(root), range(3)))
    assert len(begun) == 1
    assert programs == [find_label_studio(root)] * 3


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="a folder for Label Studio"):
        install_label_studio(tmp_path / "file" / "below")


def test_the_program_is_found_by_variable_then_beside_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USAM_LABEL_STUDIO", raising=False)
    assert find_label_studio(tmp_path) is None
    own = tmp_path / ".venv-label-studio" / "bin" / "label-studio"
    named = tmp_path / "named" / "bin" / "label-studio"
    for program in (own, named):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        assert find_label_studio(tmp_path) != program
        program.chmod(0o755)
    assert find_label_studio(tmp_path) is None  # cut short, or still at it
    (tmp_path / ".venv-label-studio" / f".label-studio-{LABEL_STUDIO_VERSION}").touch()
    assert find_label_studio(tmp_path) == own
    for given in (named, tmp_path / "named"):
        monkeypatch.setenv("USAM_LABEL_STUDIO", str(given))
        assert find_label_studio(tmp_path) == named


@pytest.mark.parametrize(
    "content",
    [
        b'{"username": 1, "password": "p", "token": "t"}',
        b'{"username": "u", "password": null, "token": "t"}',
        b'{"username": "u", "password": "", "token": "t"}',
        b'{"username": "u\\u0000", "password": "p", "token": "t"}',
        b'{"username": "u", "password": "p", "token": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_an_account_of_no_texts_is_a_damaged_one(tmp_path: Path, content: bytes) -> None:
    """Label Studio was started with it, and that ended in a traceback."""
    account = Account.of_folder(tmp_path)
    (tmp_path / "account.json").write_bytes(content)
    assert Account.of_folder(tmp_path) == account


def test_a_database_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    database = label_studio_database(tmp_path, "CREATE TABLE project (id)", "INSERT INTO project VALUES (1)")
    program = tmp_path / "label-studio"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match="to come up"):
        LabelStudioServer(program, tmp_path).start(timeout=10)
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(ServerError, match=r"label_studio\.sqlite3, got file is not a database; put a copy of it back"):
        LabelStudioServer(program, tmp_path).start(timeout=10)
    assert database.exists(), "nothing that may be somebody's work is moved"


def test_a_database_that_label_studio_refuses_is_named_with_what_it_said(tmp_path: Path) -> None:
    label_studio_database(tmp_path, "CREATE TABLE project (id)", "INSERT INTO project VALUES (1)")
    server = LabelStudioServer(Path("label-studio"), tmp_path)
    log = 'File "base.py", line 356\ndjango.db.utils.OperationalError: table "core_x" already exists\n'
    cause = ServerError("Label Studio to come up", f"exit status 1: {log}", "see its log")
    with pytest.raises(ServerError, match=r'got django.*: table "core_x" already exists; put a copy of it back'):
        server._check_database(cause)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "got none"),
        (lambda path: path.write_bytes(b""), "got a file without its tables"),
    ],
)
def test_no_database_is_begun_in_the_place_of_one_that_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], said: str
) -> None:
    server = LabelStudioServer(Path("label-studio"), tmp_path)
    started: list[float] = []
    monkeypatch.setattr(server, "_start", started.append)
    database = label_studio_database(tmp_path, "CREATE TABLE project (id)")
    (tmp_path / "data" / "has-run.txt").touch()
    server.start()
    assert len(started) == 1
    damage(database)
    for begin in (server.start, server.restart):
        with pytest.raises(ServerError, match=f"{said}; put a copy of it back; to begin without projects, remove"):
            begin()
    assert len(started) == 1
    (tmp_path / "data" / "has-run.txt").unlink()
    server.start()
    assert len(started) == 2


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_a_database_is_said_before_anything_waits_for_it(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data" / "label_studio.sqlite3")
    with pytest.raises(ServerError, match="got something else; move it away"):
        LabelStudioServer(Path("label-studio"), tmp_path).start()


def test_a_first_start_is_given_the_time_that_a_busy_machine_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, given = LabelStudioServer(Path("label-studio"), tmp_path), list[float]()
    monkeypatch.setattr(server, "_start", given.append)
    server.start()
    label_studio_database(tmp_path, "CREATE TABLE project (id)")
    (tmp_path / "data" / "has-run.txt").touch()
    server.start()
    server.start(5)
    assert given == [label_studio_server.FIRST_START_S, label_studio_server.LATER_START_S, 5]
