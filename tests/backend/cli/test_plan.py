"""What a person reads of a plan, and what a program does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.learning import label_plan
from backend.learning.label_plan import ProjectPlan
from backend.store import Store
from tests.backend.cli.conftest import Command
from usam.active.learning_curve import Plan, fit_curve


@pytest.fixture(autouse=True)
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    return data


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Plan from a made-up history; gives what was asked for."""
    asked: list[dict[str, Any]] = []
    counts = np.array([0, 10, 20, 40, 80])
    history = [(int(count), 0.8 - 0.2 * float(np.exp(-count / 30))) for count in counts]

    def plan(settings: Any, store: Any, project: int, base: Any, promise: Any, say: Any) -> ProjectPlan:
        asked.append({"project": project, "promise": promise})
        say(1, 2)
        curve = fit_curve([count for count, _ in history], [quality for _, quality in history])
        return ProjectPlan(Plan.of(curve, "a promise"), history, "left-out tasks", 80, 20, 2)

    monkeypatch.setattr(label_plan, "plan_project", plan)
    return asked


def test_a_plan_is_lines_for_people_and_json_for_programs(command: Command, planned: list[dict[str, Any]]) -> None:
    done = command("plan", "--project", "3")
    assert done.exit_code == 0, done.stderr
    assert "80 labels on 20 tasks, 2 of them audits" in done.stdout
    assert "next 50 labels:" in done.stdout
    told = json.loads(command("plan", "--project", "3", "--json").stdout)
    assert told["project"] == 3
    assert "a promise" in told["lines"]
    assert (told["versions"], told["runs"]) == ([], [])


def test_another_number_of_labels_is_answered_too(command: Command, planned: list[dict[str, Any]]) -> None:
    usual, asked = command("plan", "--project", "3"), command("plan", "--project", "3", "--more", "73")
    assert "73" in asked.stdout
    assert len(asked.stdout.splitlines()) == len(usual.stdout.splitlines()) + 1


def test_the_promise_is_the_one_that_was_asked_for(command: Command, planned: list[dict[str, Any]]) -> None:
    command("plan", "--project", "3", "--iou", "0.7", "--risk", "0.2", "--confidence", "0.8")
    promise = planned[0]["promise"]
    assert (promise.iou, promise.risk, promise.confidence) == (0.7, 0.2, 0.8)


def test_a_promise_that_cannot_be_is_refused_before_anything_is_learnt(
    command: Command, planned: list[dict[str, Any]]
) -> None:
    done = command("plan", "--project", "3", "--risk", "3")
    assert done.exit_code == 2
    assert "risk" in done.stderr
    assert planned == []


def test_too_few_labels_are_said(command: Command) -> None:
    done = command("plan", "--project", "3")
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
    assert "labels" in done.stderr


def test_the_plan_as_a_page(command: Command, planned: list[dict[str, Any]], here: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{here / 'usam.db'}")
    store.finish_run(store.start_run(3, "retrain"), "rejected", "not <surely> better")
    store.close()
    page = tmp_path / "page.html"
    done = command("plan", "--project", "3", "--report", page)
    assert done.exit_code == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "next 50 labels:" in text
    assert "not &lt;surely&gt; better" in text
    assert command("plan", "--project", "3", "--report", "page.txt").exit_code == 2
