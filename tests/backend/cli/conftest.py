"""A data folder with one project, and the command line on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.label_studio.records import Task
from backend.store import Store
from backend.store.records import ProposalRow, ScoreRow

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine's stacks and variables nor the current folder's data."""
    for name in ("USAM_DATA_DIR", "USAM_DATABASE_URL", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)


@pytest.fixture
def command() -> Command:
    """`usam-backend ARGUMENTS`; its result has `exit_code`, `stdout` and `stderr`."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder: project 3 with four tasks; the first ranked one is finished, the last cannot be read."""
    folder = tmp_path / "data"
    store = Store(f"sqlite:///{folder / 'usam.db'}")
    store.join(3, "stamp")
    names = ("a.png", "b.png", "c.png", "broken.png")
    tasks = [Task(number, {"image": f"/data/{name}"}, "t", 0) for number, name in enumerate(names, 1)]
    tasks[0] = Task(1, {"image": "/data/a.png"}, "t", 1, is_labeled=True)
    store.record_tasks(3, tasks)
    store.put_scores(3, [ScoreRow(task.id, "v", 1.0, 0.1, place, False, "why") for place, task in enumerate(tasks)])
    store.put_proposal(3, ProposalRow(4, "", b"", [], "an image file: got 12 bytes of something else"))
    store.set_served(3, "nano-s+no-heads.1")
    store.finish_run(store.start_run(3, "score_pool"), "done", "first is task 1")
    store.close()
    return folder
