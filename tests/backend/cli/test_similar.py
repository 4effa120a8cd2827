"""Find all like this, as a person asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.cli import similar as module
from backend.pool import similar as pool
from backend.pool.similar import LikeObject, LikeObjects
from tests.backend.cli.conftest import Command


@pytest.fixture(autouse=True)
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    return data


def test_what_is_found_is_told_as_a_table_and_as_json(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = LikeObjects([LikeObject(2, 4, 0.91), LikeObject(2, 1, 0.5)], 3, "cat", {})
    monkeypatch.setattr(pool, "find_like", lambda *_, **__: found)
    done = command("similar", "--project", "3", "--task", "1")
    assert done.exit_code == 0, done.stderr
    assert "2 objects on 1 tasks are like the 3 marked ones" in done.stderr
    assert "0.91" in done.stdout
    told = json.loads(command("similar", "--project", "3", "--task", "1", "--json").stdout)
    assert told["label"] == "cat"
    assert told["objects"][0] == {"task": 2, "number": 4, "similarity": 0.91}
    assert module.SHOWN == 20


def test_a_task_where_nothing_is_marked_is_an_error(command: Command) -> None:
    done = command("similar", "--project", "3", "--task", "1")
    assert done.exit_code != 0
    assert "expected marked objects on task 1" in done.stderr
