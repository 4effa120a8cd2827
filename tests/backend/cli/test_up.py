"""What `up` checks before anything starts, whose settings it uses, and what it tells at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import up
from backend.local import demo
from backend.local import stack as stack_module
from backend.local.demo import RETRAIN_AFTER
from backend.settings import Settings
from backend.store import Store
from tests.backend.cli.conftest import Command
from tests.factories import picture, png


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, data: Path) -> Iterator[list[Any]]:
    """Stacks that were begun, with nothing behind them."""
    begun: list[Any] = []
    before = dict(os.environ)

    class Stack:
        def __init__(self, settings: Settings, **options: Any) -> None:
            self.settings, self.options = settings, options
            self.watched = False
            begun.append(self)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def watch(self) -> None:
            self.watched = True

    monkeypatch.setattr(stack_module, "Stack", Stack)
    monkeypatch.setattr(up, "_prepare_project", lambda stack, pictures, title, is_ours: 3)
    monkeypatch.setattr(up, "_print_welcome", lambda stack, project: None)
    monkeypatch.setattr(up.signal, "signal", lambda *_: None)
    monkeypatch.setattr(up, "_demo_folder", lambda parent, photos: parent / ("photos" if photos else "drawn"))
    monkeypatch.setattr(demo, "document_root", lambda pictures: pictures.parent)
    yield begun
    os.environ.clear()
    os.environ.update(before)


def test_a_folder_that_is_none_is_said_before_anything_starts(
    command: Command, started: list[Any], tmp_path: Path
) -> None:
    for folder, words in ((tmp_path / "nowhere", "nowhere"), (tmp_path / "empty", "empty")):
        if folder.name == "empty":
            folder.mkdir()
        done = command("up", "--images", folder)
        assert done.exit_code == 2
        assert words in done.stderr
    assert started == []


def test_one_kind_of_pictures_at_a_time(command: Command, started: list[Any], tmp_path: Path) -> None:
    done = command("up", "--photos", "--images", tmp_path)
    assert "leave one of them out" in done.stderr
    assert started == []


def test_a_folder_in_the_home_folder_is_found_and_pictures_left_out_are_named(
    command: Command, started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "one.png").write_bytes(png(picture()))
    (folder / "two.heic").write_bytes(b"x")
    done = command("up", "--images", "~/mine", "--no-wait")
    assert done.exit_code == 0, done.stderr
    assert "heic" in done.stderr
    assert started[0].options["files"] == tmp_path
    assert not started[0].watched


def test_the_demo_learns_early_and_a_folder_of_ones_own_as_it_is_set(
    command: Command, started: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(png(picture()))
    usual = Settings.from_environment().retrain_after
    assert command("up").exit_code == 0
    assert command("up", "--images", tmp_path).exit_code == 0
    assert [stack.settings.retrain_after for stack in started] == [RETRAIN_AFTER, usual]
    assert started[0].watched


def test_pictures_that_could_not_be_used_are_counted_and_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{data / 'usam.db'}")
    client: Any = None
    monkeypatch.setattr(up.time, "time", lambda: 0.0)
    up._wait_for_ranking(store, client, 3)
    store.close()
    told = capsys.readouterr().err
    assert "3 of 4 pictures looked at, 1 could not be used:" in told
    assert "broken.png" in told


def test_the_welcome_says_where_to_go_and_a_password_only_once(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account = SimpleNamespace(username="me@localhost", password="a-password")
    server = SimpleNamespace(is_new=True, account=account, folder=data / "label-studio")
    stack: Any = SimpleNamespace(
        label_studio=server,
        label_studio_url="http://127.0.0.1:8080",
        backend_url="http://127.0.0.1:9090",
        folder=data,
        environment={"USAM_DATA_DIR": str(data), "USAM_RETRAIN_AFTER": "10"},
    )
    before = dict(os.environ)
    try:
        up._print_welcome(stack, 3)
        first = capsys.readouterr().out
        server.is_new = False
        up._print_welcome(stack, 3)
        second = capsys.readouterr().out
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "http://127.0.0.1:8080/projects/3/data" in first
    assert "After 10 labels usam learns" in first
    assert "a-password" in first
    assert "a-password" not in second
    assert str(data / "label-studio" / "account.json") in second


@pytest.mark.parametrize(
    ("variable", "name", "words"),
    [
        ("USAM_MODEL", "nano-x", "did you mean 'nano-"),
        ("USAM_LARGER_MODEL", "sam2.1_hiera_tinny", "mean 'sam2"),
    ],
)
def test_a_model_that_is_not_there_is_said_before_anything_starts(
    command: Command, started: list[Any], monkeypatch: pytest.MonkeyPatch, variable: str, name: str, words: str
) -> None:
    monkeypatch.setenv(variable, name)
    done = command("up")
    assert done.exit_code == 2
    assert words in done.stderr
    assert started == []


def test_a_model_is_chosen_by_an_option(command: Command, started: list[Any]) -> None:
    assert command("up", "--model", "nano-l").exit_code == 0
    assert started[0].settings.model == "nano-l"


@pytest.mark.parametrize("sign", up.ENDING)
def test_what_asks_for_an_end_is_heeded_once_and_said(sign: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(one) for one in up.ENDING]
    with up._ended_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), sign)
        for one in up.ENDING:  # what stops is not interrupted
            os.kill(os.getpid(), one)
    assert [signal.getsignal(one) for one in up.ENDING] == before
    assert capsys.readouterr().err.count("stopping what was started") == 1


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with up._ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stack_that_is_stopped_says_what_stays(
    command: Command, started: list[Any], monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "_prepare_project", interrupted)
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    done = command("up")
    assert done.exit_code == 0
    assert f"stopped; annotations, scores and versions stay in {data}" in done.stderr
