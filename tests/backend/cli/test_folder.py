"""Which folder a command reads: the one that is named, the one here, the running stack's; never one it makes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.cli.folder import say, settings_in_use
from backend.errors import SettingsError
from backend.local.running import announce, remember, withdraw
from tests.backend.cli.conftest import Command

STACK = {
    "LABEL_STUDIO_URL": "http://127.0.0.1:8123",
    "LABEL_STUDIO_API_KEY": "0123456789",
    "REDIS_URL": "unix:///tmp/none.sock?db=0",
    "USAM_HOST": "127.0.0.1",
    "USAM_PORT": "9191",
}


@pytest.fixture
def running(data: Path) -> Iterator[Path]:
    remember(data, {})
    announce(data, STACK)
    yield data
    withdraw(data)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json"),
        ("score", "--project", "3"),
        ("retrain", "--project", "3"),
        ("versions", "--project", "3"),
        ("rollback", "--project", "3"),
        ("plan", "--project", "3"),
        ("pseudo-label", "--project", "3"),
    ],
)
def test_in_a_folder_without_a_store_a_command_says_so_and_makes_nothing(
    command: Command, words: tuple[str, ...]
) -> None:
    done = command(*words)
    assert done.exit_code == 2
    assert "expected a data folder with a store" in done.stderr
    assert "usam-backend up" in done.stderr
    assert done.stdout == ""
    assert list(Path.cwd().iterdir()) == []


def test_the_folder_that_is_named_is_read_and_said(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    done = command("status")
    assert done.exit_code == 0, done.stderr
    assert f"reading {data}" in done.stderr


def test_a_running_stack_is_found_from_anywhere_with_all_it_tells(running: Path, command: Command) -> None:
    said: list[str] = []
    settings = settings_in_use(tell=said.append)
    assert settings.data_dir == running
    assert settings.label_studio_url == STACK["LABEL_STUDIO_URL"]
    assert settings.label_studio_api_key.get_secret_value() == STACK["LABEL_STUDIO_API_KEY"]
    assert (settings.port, settings.redis_url.get_secret_value()) == (9191, STACK["REDIS_URL"])
    assert said == [f"reading {running}, whose stack runs"]
    assert command("status").exit_code == 0


def test_a_command_decides_as_the_running_stack_does(data: Path) -> None:
    told = {"USAM_MODEL": "nano-l", "USAM_MARKED_IN_PART": "true", "USAM_HOSTS": "a.example,b.example"}
    remember(data, {})
    announce(data, STACK | told | {"USAM_SHARED": "no setting", "USAM_OF_ANOTHER_RELEASE": "1"})
    try:
        settings = settings_in_use(tell=lambda line: None)
    finally:
        withdraw(data)
    assert (settings.model, settings.marked_in_part) == ("nano-l", True)
    assert settings.hosts == ("a.example", "b.example")


def test_variables_that_are_set_win(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://other.example")
    monkeypatch.setenv("USAM_PORT", "7000")
    settings = settings_in_use(tell=lambda line: None)
    assert (settings.label_studio_url, settings.port) == ("http://other.example", 7000)


def test_the_folder_that_is_named_wins_over_a_stack_elsewhere(
    running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "another"))
    with pytest.raises(SettingsError, match="a data folder with a store"):
        settings_in_use(tell=lambda line: None)
    assert not (tmp_path / "another").exists()


def test_two_running_stacks_are_not_guessed_between(running: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    remember(other, {})
    announce(other, STACK)
    with pytest.raises(SettingsError, match="USAM_DATA_DIR") as caught:
        settings_in_use(tell=lambda line: None)
    assert str(other) in str(caught.value)
    assert str(running) in str(caught.value)


def test_label_studios_token_is_asked_for_where_nothing_tells_it(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    for words in (("pseudo-label", "--project", "3"), ("connect", "--project", "3")):
        done = command(*words)
        assert done.exit_code == 2
        assert "no stack runs that would tell" in done.stderr


def test_a_terminal_that_is_gone_keeps_nobody_from_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    say("a line")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    say("a line")


def test_a_narrow_terminal_gets_lines_instead_of_cells(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    wide = command("status").stdout
    monkeypatch.setenv("COLUMNS", "30")
    narrow = command("status").stdout
    assert "\u2502" in wide
    assert not set("\u2502\u2503\u2026") & set(narrow)
    assert "1, 2, b.png, why" in narrow
    assert max(map(len, narrow.splitlines())) <= 30
