"""Labels worth a second look, as a person asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.cli import review as module
from backend.store import Store
from tests.backend.cli.conftest import Command
from tests.backend.learning.reviewed import fill


@pytest.fixture(autouse=True)
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    monkeypatch.setenv("USAM_MODEL", "nano-s")
    monkeypatch.setenv("USAM_HEADS", "none")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://labels.example:8080")
    store = Store(f"sqlite:///{data / 'usam.db'}")
    fill(store, 3)
    store.close()
    return data


def test_the_list_as_lines_as_json_and_as_a_page(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = command("review", "--project", "3", "--no-tab", "--top", "2", "--report", page)
    assert done.exit_code == 0, done.stderr
    assert "2 to look at, of 79 labels of 40 finished tasks" in done.stdout
    assert len(done.stdout.splitlines()) == 1 + 2 * 2, "sentences are not broken up, however narrow the terminal"
    assert "    labelled dog, looks like" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert "http://labels.example:8080/projects/3/data?task=6" in text
    assert "<b>" not in text
    told = json.loads(command("review", "--project", "3", "--no-tab", "--top", "1", "--json").stdout)
    assert len(told["lines"]) == 1
    assert told["labels"] == 79
    only = json.loads(command("review", "--project", "3", "--no-tab", "--reason", "outline", "--json").stdout)
    assert {line["reason"] for line in only["lines"]} <= {"outline"}
    refused = command("review", "--project", "3", "--no-tab", "--reason", "mask")
    assert refused.exit_code == 2
    assert "one of label, outline, not marked" in refused.stderr


def test_the_tab_is_made_of_the_tasks_of_the_list(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr("backend.label_studio.tabs.show_in_tab", lambda _, *rest: shown.append(rest) or "view")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k")
    done = command("review", "--project", "3", "--top", "2")
    assert done.exit_code == 0, done.stderr
    ((project, title, tasks),) = shown
    assert (project, title) == (3, module.TAB)
    assert set(tasks) == {6, 21}
    assert "Worth a second look" in done.stderr


def test_without_label_studio_it_says_what_to_do(command: Command) -> None:
    done = command("review", "--project", "3")
    assert done.exit_code == 2
    assert "LABEL_STUDIO_API_KEY" in done.stderr
    refused = command("review", "--project", "3", "--report", "x.pdf")
    assert "--report FILE.html" in refused.stderr


def test_what_is_right_is_said_and_left_out_from_then_on(command: Command) -> None:
    listed = json.loads(command("review", "--project", "3", "--no-tab", "--json").stdout)
    assert listed["said_to_be_right"] == 0
    key = listed["lines"][0]["key"]
    done = command("review", "--project", "3", "--right", key, "--json")
    assert done.exit_code == 0, done.stderr
    assert f"{key}: right, though labelled dog, looks like cat" in done.stderr
    told = json.loads(done.stdout)["said"]
    assert {one["key"] for one in told} == {key}
    again = command("review", "--project", "3", "--no-tab")
    assert key not in again.stdout
    assert f"{len(told)} more are left out: somebody said that they are right" in again.stdout
    assert command("review", "--project", "3", "--doubt-again", key).exit_code == 0
    assert key in command("review", "--project", "3", "--no-tab").stdout
    refused = command("review", "--project", "3", "--right", "1/nothing")
    assert refused.exit_code == 2
    assert "ANNOTATION/REGION" in refused.stderr
