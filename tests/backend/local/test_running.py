"""A running stack is found by its folder's notes, and only while the very process that wrote them lives."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backend.local.running import (
    ENV_FILE,
    STATE_FILE,
    announce,
    recall,
    remember,
    running_in,
    running_stacks,
    withdraw,
)
from backend.store.kept_twice import copy_of

ENVIRONMENT = {"LABEL_STUDIO_URL": "http://127.0.0.1:8080", "LABEL_STUDIO_API_KEY": "it's a $secret", "EMPTY": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data with a space"
    folder.mkdir()
    return folder


def test_a_running_stack_is_found_with_its_settings(folder: Path) -> None:
    assert running_stacks() == []
    remember(folder, {"ports": {"backend": 9090}})
    path = announce(folder, ENVIRONMENT)
    assert path.stat().st_mode & 0o777 == 0o600
    (stack,) = running_stacks()
    assert (stack.folder, stack.environment) == (folder, ENVIRONMENT)
    assert "secret" not in repr(stack)
    withdraw(folder)
    assert running_stacks() == []
    assert running_in(folder) is None
    withdraw(folder)


def test_a_shell_reads_the_same_settings(folder: Path) -> None:
    import subprocess

    path = announce(folder, ENVIRONMENT)
    script = 'set -a; . "$0"; printf %s "$LABEL_STUDIO_API_KEY"'
    done = subprocess.run(["sh", "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == ENVIRONMENT["LABEL_STUDIO_API_KEY"]


def test_notes_of_a_process_that_is_gone_or_another_now_are_not_believed(folder: Path) -> None:
    remember(folder, {})
    announce(folder, ENVIRONMENT)
    notes = recall(folder)
    for process in ({"pid": os.getpid(), "identity": "another start"}, {"pid": 2**22 + 1, "identity": "x"}, {}, "x"):
        (folder / STATE_FILE).write_text(json.dumps({**notes, "process": process}))
        assert running_in(folder) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\x00", b"null", b"[" * 100_000])
def test_damaged_notes_are_as_none(folder: Path, content: bytes) -> None:
    remember(folder, {})
    announce(folder, ENVIRONMENT)
    notes = recall(folder)
    (folder / STATE_FILE).write_bytes(content)
    assert recall(folder) == notes, "mended from the copy"
    for path in (folder / STATE_FILE, copy_of(folder / STATE_FILE)):
        path.write_bytes(content)
    assert recall(folder) == {}
    assert running_stacks() == []
    remember(folder, {})
    (folder / ENV_FILE).write_bytes(content)
    assert all(stack.environment == {} for stack in running_stacks())


def test_a_folder_whose_name_is_no_utf_8_is_noted_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / os.fsdecode(b"f\xffr\nme")
    folder.mkdir()
    remember(folder, {})
    announce(folder, {"USAM_DATA_DIR": str(folder)})
    (stack,) = running_stacks()
    assert (stack.folder, stack.environment) == (folder, {"USAM_DATA_DIR": str(folder)})
    withdraw(folder)


def test_a_user_without_a_home_folder_does_without_notes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    remember(folder, {})
    announce(folder, ENVIRONMENT)
    assert running_in(folder) is not None
    assert running_stacks() == []
    withdraw(folder)
