"""A stack on a folder: what earlier runs left there is ended only where it is proven to be ours. Its start is in
tests/e2e."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backend.addresses import PROCESS_HEADER
from backend.errors import ServerError
from backend.local import stack as stack_module
from backend.local.processes import identity
from backend.local.stack import Command, Stack, end_group, make_private, shared_cores
from backend.settings import Settings


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    said: list[str] = []
    stack = Stack(Settings(data_dir=tmp_path / "data"), files=tmp_path, root=tmp_path, say=said.append)
    stack.folder.mkdir()
    yield stack
    stack.stop()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "import time; time.sleep(600)", "backend.cli.main", "label-studio"]
    process = subprocess.Popen(command, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def note(stack: Stack, groups: Any) -> None:
    (stack.folder / "up.json").write_text(json.dumps({"groups": groups, "ports": {}}))


@pytest.mark.parametrize("began", ["", "another start", None])
def test_a_process_that_only_has_the_number_is_left_alone(
    stack: Stack, sleeper: subprocess.Popen[bytes], began: str | None
) -> None:
    note(stack, {"worker": {"pid": sleeper.pid, "identity": began}, "label-studio": sleeper.pid})
    stack._end_leftovers()
    assert sleeper.poll() is None


def test_the_very_process_of_a_killed_run_is_ended(stack: Stack, sleeper: subprocess.Popen[bytes]) -> None:
    note(stack, {"worker": {"pid": sleeper.pid, "identity": identity(sleeper.pid)}})
    stack._end_leftovers()
    assert sleeper.wait(10) != 0
    assert identity(sleeper.pid) == ""


@pytest.mark.parametrize(
    "notes", ["", "{", "[]", '{"groups": [1], "ports": 7}', '{"groups": {"a": {"pid": -1, "identity": "x"}}}']
)
def test_damaged_notes_end_nothing_and_name_no_port(stack: Stack, notes: str) -> None:
    (stack.folder / "up.json").write_text(notes)
    stack._end_leftovers()
    assert stack._last_ports() == {}


def test_a_group_that_is_gone_is_no_trouble(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    end_group(sleeper.pid)


def test_two_runs_do_not_share_a_folder(stack: Stack, tmp_path: Path) -> None:
    stack._lock()
    other = Stack(Settings(data_dir=tmp_path / "data"), files=tmp_path, root=tmp_path)
    with pytest.raises(ServerError, match="a run that uses it already"):
        other._lock()
    other.stop()


def test_the_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    for name in ("usam.db", "inbox/journal"):
        (tmp_path / name).write_text("")
    make_private(tmp_path)
    (tmp_path / "later").write_text("")
    assert tmp_path.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["redis", "."])
def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    if name == ".":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / name).write_text("")
    stack = Stack(Settings(data_dir=folder), files=tmp_path, root=tmp_path)
    with pytest.raises(
        ServerError, match=r"data folder .* to be used, got .*; free space, remove what is in its place"
    ):
        stack.__enter__()


@pytest.mark.parametrize(
    ("workers", "threads", "told"), [(1, 0, None), (1, 3, "3"), (2, 0, str(shared_cores(2))), (2, 3, "3")]
)
def test_workers_share_the_cores_unless_they_are_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, told: str | None
) -> None:
    monkeypatch.delenv("USAM_THREADS", raising=False)
    started: dict[str, dict[str, str]] = {}

    def note_start(command: Command, patience: float = 0.0) -> None:
        started[command.process.name] = dict(command.process.environment)

    monkeypatch.setattr(Command, "restart", note_start)
    settings = Settings(data_dir=tmp_path, threads=threads)
    stack = Stack(settings, files=tmp_path, root=tmp_path, workers=workers)
    stack._start_workers()
    assert list(started) == ["worker", "worker-2"][:workers]
    assert {environment.get("USAM_THREADS") for environment in started.values()} == {told}
    stack.stop()


def test_there_is_a_thread_for_each_worker_on_few_cores() -> None:
    assert shared_cores(10_000) == 1
    assert shared_cores(1) == os.cpu_count()


def test_other_shells_are_told_what_the_user_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAM_MARKED_IN_PART", "true")
    monkeypatch.setenv("USAM_MODEL", "nano-s")
    told = Stack(Settings(data_dir=tmp_path, model="nano-l"), files=tmp_path, root=tmp_path).environment
    assert (told["USAM_MARKED_IN_PART"], told["USAM_MODEL"]) == ("true", "nano-l")


def test_a_backend_of_another_run_at_our_port_is_not_taken_for_ours(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that begin at once find the same port free; the slower one takes the next."""
    answers: list[int] = [1, os.getpid()]  # the numbers of the processes that answer
    ports = iter([9090, 9999, 9091])  # the second: 9090 is taken by now
    monkeypatch.setattr(stack_module, "free_port", lambda preferred, host: next(ports))
    process: Any = SimpleNamespace(pid=os.getpid())

    def answer(url: str, timeout: float) -> httpx.Response:
        return httpx.Response(200, headers={PROCESS_HEADER: str(answers.pop(0))})

    def start(name: str, arguments: list[str], ready: Any) -> None:
        if not ready(process):
            raise ServerError("backend to come up", "exit status 1")

    monkeypatch.setattr(stack_module.httpx, "get", answer)
    monkeypatch.setattr(stack, "_start_command", start)
    stack._start_backend()
    assert stack.backend_url == "http://127.0.0.1:9091"


def test_an_address_of_ip_6_stands_in_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(Settings(data_dir=tmp_path, host="::1"), files=tmp_path, root=tmp_path)
    monkeypatch.setattr(stack_module, "free_port", lambda preferred, host: 9090)
    monkeypatch.setattr(stack, "_start_command", lambda *_: None)
    stack._start_backend()
    assert stack.backend_url == "http://[::1]:9090"
