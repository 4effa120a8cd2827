"""What the commands about a project say, as words and as JSON, and that a project they do not know is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from backend.cli.main import app
from backend.label_studio.records import Task
from backend.queue import JobQueue
from backend.store import Store
from backend.store.head_registry import POINTER_FILE, Registry
from backend.store.kept_twice import copy_of
from backend.store.records import ScoreRow
from backend.web.dashboard.actions import LOG_FILE, ActionLog
from tests.backend.cli.conftest import Command
from tests.backend.store.test_head_registry import head_set
from tests.decoders import shaken_decoder


@pytest.fixture(autouse=True)
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    return data


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What was queued."""
    queued: list[tuple[int, str]] = []
    monkeypatch.setattr(JobQueue, "enqueue", lambda self, project, job, **_: queued.append((project, job)))
    return queued


def test_names_and_reasons_stand_as_they_are(command: Command, data: Path) -> None:
    """To the library that prints tables, `[/b]` ends a style that nobody began: `status` ended with a traceback."""
    store = Store(f"sqlite:///{data / 'usam.db'}")
    names = {2: "cat[red]:smile:.jpg", 3: "half\ud800.jpg"}
    store.record_tasks(3, [Task(number, {"image": f"/data/{name}"}, "t", 0) for number, name in names.items()])
    store.put_scores(3, [ScoreRow(number, "v", 1.0, 0.1, number, False, "why") for number in names])
    store.finish_run(store.start_run(3, "sync"), "done", "1 set aside: region [/bold]")
    store.close()
    done = command("status", "--project", "3")
    assert done.exit_code == 0, done.exception
    for words in ("cat[red]:smile:.jpg", "half\\ud800.jpg", "[/bold]"):
        assert words in done.stdout


def test_what_is_no_error_of_ours_is_a_sentence_too(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("backend.store.Store.work", fail)
    done = command("status", "--project", "3")
    assert (done.exit_code, "Traceback" in done.stderr) == (1, False)
    assert "usam: expected this to work, got KeyError: 'x'; put --debug before the command" in done.stderr
    assert isinstance(command("--debug", "status", "--project", "3").exception, KeyError)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "file"))
    done = command("connect", "--project", "3")
    assert done.exit_code == 2
    assert "File exists; correct it or its rights" in done.stderr
    done = command("connect", "--project", str(10**30))
    assert "expected the number of a project, from 1" in done.stderr


@pytest.mark.parametrize("name", ["status", "score", "retrain", "versions", "rollback", "repair", "plan"])
def test_an_unknown_project_is_an_error(command: Command, name: str, asked: list[tuple[int, str]]) -> None:
    done = command(name, "--project", "9")
    assert done.exit_code == 2
    assert "expected a project that is looked after (3)" in done.stderr
    assert "usam-backend connect --project 9" in done.stderr
    assert asked == []


def test_status_says_what_is_ranked_first_without_finished_tasks_and_names_what_cannot_be_read(
    command: Command,
) -> None:
    done = command("status")
    assert done.exit_code == 0, done.stderr
    assert "ranked first in project 3" in done.stdout
    assert "a.png" not in done.stdout, "it is finished"
    assert "3 of 4 tasks unlabelled" in done.stdout
    assert "1 of 4 pictures could not be used" in done.stdout
    assert "task 4, broken.png: an image file: got 12 bytes" in done.stdout
    for word in ("asked first", "said"):
        assert word not in done.stdout


def test_status_as_json(command: Command, here: Path) -> None:
    done = command("status", "--json")
    state = json.loads(done.stdout)
    assert state["folder"] == str(here)
    (project,) = state["projects"]
    assert [row["task"] for row in project["ranked_first"]] == [2, 3, 4]
    assert [row["rank"] for row in project["ranked_first"]] == [1, 2, 3]
    assert project["unreadable"] == [
        {"task": 4, "picture": "broken.png", "reason": "an image file: got 12 bytes of something else"}
    ]
    assert (project["tasks"], project["unlabelled"], project["runs"][0]["state"]) == (4, 3, "done")


def test_score_ranks_where_it_is_due_and_with_force_always(
    command: Command, here: Path, asked: list[tuple[int, str]]
) -> None:
    def last() -> str:
        store = Store(f"sqlite:///{here / 'usam.db'}")
        try:
            return store.runs(3, "score_pool", limit=1)[0].state
        finally:
            store.close()

    assert command("score", "--project", "3").exit_code == 0
    assert (asked, last()) == ([(3, "score_pool")], "done")
    assert command("score", "--project", "3", "--force").exit_code == 0
    assert (len(asked), last()) == (2, "interrupted"), "which is what makes a ranking due"


def test_without_redis_nothing_is_said_to_be_asked_for(command: Command) -> None:
    done = command("retrain", "--project", "3")
    assert done.exit_code == 2
    assert "expected Redis to answer" in done.stderr
    assert "asked for" not in done.stderr


def test_what_commands_do_stands_beside_what_is_done_from_the_page(
    command: Command, here: Path, asked: list[tuple[int, str]]
) -> None:
    command("retrain", "--project", "3")
    command("score", "--project", "3", "--force")
    told = [(line.action, line.outcome) for line in ActionLog(here / LOG_FILE).last(3)]
    assert told == [("rank", "ranking asked for"), ("train", "training asked for")]


def test_versions_say_what_the_gate_measured_in_words(command: Command, here: Path) -> None:
    registry = Registry(here / "heads")
    gate = {"promote": True, "candidate_error": 0.0015, "champion_error": 0.0054, "share": 1.0, "method": "audit"}
    judged = registry.publish(3, head_set(2), figures={**gate, "objects": 43, "tasks": 10}).version
    registry.promote(3, judged)
    said = command("versions", "--project", "3").stdout
    assert "error 0.0015 against 0.0054 before, in 100 % of draws better, on 43 objects of 10 tasks" in said
    assert "promote" not in said


def test_versions_repair_and_rollback(command: Command, here: Path, asked: list[tuple[int, str]]) -> None:
    registry = Registry(here / "heads")
    first = registry.publish(3, head_set(0), samples=7).version
    decoder = shaken_decoder(1)
    second = registry.publish(3, head_set(1), samples=7, decoder=decoder).version
    for version in (first, second):
        registry.promote(3, version)
    listed = json.loads(command("versions", "--project", "3", "--json").stdout)
    assert listed["in_use"] == second
    assert {version["version"] for version in listed["versions"]} == {first, second}
    told = command("versions", "--project", "3").stdout
    assert "from 7 objects" in told
    assert f"mask decoder {decoder.version} of its own: gain 0.05, blend 0.5" in told

    for path in (here / "heads" / "3" / POINTER_FILE, copy_of(here / "heads" / "3" / POINTER_FILE)):
        path.write_text("{")
    status = command("status")
    assert status.exit_code == 0, "one damaged file is not everything's end"
    assert "usam-backend repair" in status.stdout
    assert f"now {second}" in command("repair").stdout
    assert command("repair").stdout == "project 3: nothing to repair\n"
    record = here / "pseudo_labels" / "3" / "1" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    assert f"{record} set aside" in command("repair", "--project", "3").stdout
    assert not record.exists()

    done = command("rollback", "--project", "3")
    assert (done.exit_code, registry.champion(3)) == (0, "")
    assert asked == [(3, "score_pool")]
    assert command("rollback", "--project", "3", "--to", first).exit_code == 0
    assert registry.champion(3) == first
    assert command("rollback", "--project", "3", "--to", "base").exit_code == 0
    assert registry.champion(3) == ""
    assert command("rollback", "--project", "3", "--to", "nothing").exit_code == 2
    lines = ActionLog(here / LOG_FILE).last(3)
    assert [(line.action, line.version) for line in lines] == [("rollback", v) for v in ("nothing", "base", first, "")]
    assert lines[0].outcome.startswith("not done: expected")
    assert lines[1].who.endswith(" on the command line")


def test_every_command_and_option_explains_itself_and_what_prints_data_has_json() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None), f"{name} {option.name}"
    printing = {"status", "versions", "repair", "plan", "pseudo-label"}
    assert printing <= {
        name for name, command in commands.items() if any("--json" in option.opts for option in command.params)
    }


DAMAGE = {
    "garbage": lambda path: path.write_bytes(b"\x00garbage" * 9000),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "pages overwritten": lambda path: path.write_bytes(path.read_bytes()[:8192] + b"\xff" * 60_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_said_and_mended_by_one_command(command: Command, here: Path, damage: str) -> None:
    registry = Registry(here / "heads")
    registry.promote(3, registry.publish(3, head_set(0)).version)
    DAMAGE[damage](here / "usam.db")
    done = command("status")
    assert done.exit_code == 2
    assert "usam-backend repair" in done.stderr
    repaired = command("repair")
    assert repaired.exit_code == 0, repaired.output
    assert "set aside as usam.db.damaged-" in repaired.stdout
    assert "project 3 is looked after again" in repaired.stdout
    assert command("status").exit_code == 0
    assert registry.champion(3) == head_set(0).version
