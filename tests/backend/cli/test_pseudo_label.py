"""What a person reads when masks are accepted or taken back, and that no two do it at once."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from backend.cli.main import app as backend_app
from backend.jobs import pseudo_label as job
from backend.resources import Resources
from backend.store import Store
from tests.backend.cli.conftest import Command
from tests.backend.store.test_pseudo_label_store import VERSION, run_record
from usam.cli.main import app
from usam.pseudo_labels.guarantee import RiskGuarantee


@pytest.fixture(autouse=True)
def here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "USAM_DATA_DIR": str(data),
        "LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "LABEL_STUDIO_API_KEY": "x" * 40,
    }.items():
        monkeypatch.setenv(name, value)
    return data


@pytest.fixture
def leases(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were held while the job ran; the rest of its surroundings is the data folder's store."""
    held: list[str] = []
    opened: list[Any] = []

    def opening(settings: Any) -> Any:
        place = SimpleNamespace(settings=settings, store=Store(settings.store_url))
        place.lease = lambda name: (held.append(name), nullcontext())[1]
        opened.append(place)
        return nullcontext(place)

    monkeypatch.setattr(Resources, "open", opening)
    yield held
    for place in opened:
        place.store.close()


def test_every_command_asks_for_the_same_promise_where_nothing_is_said() -> None:
    usual = RiskGuarantee()
    for program, name in ((backend_app, "pseudo-label"), (backend_app, "plan"), (app, "simulate")):
        options = {option.name: option.default for option in get_command(program).commands[name].params}  # type: ignore[attr-defined]
        wanted = {key: getattr(usual, key) for key in ("iou", "risk", "confidence", "per_image") if key in options}
        assert {key: options[key] for key in wanted} == wanted, name


def test_what_was_accepted_is_told_with_its_threshold_and_its_misses(
    command: Command, leases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        job, "run", lambda place, project, promise, **more: asked.append((promise, more)) or run_record()
    )
    done = command("pseudo-label", "--project", "3", "--iou", "0.5", "--risk", "0.4", "--json")
    assert done.exit_code == 0, done.stderr
    assert "2 masks on 2 tasks accepted as " + VERSION in done.stderr
    assert "threshold 0.600" in done.stderr
    told = json.loads(done.stdout)
    assert (told["changed"], told["version"], told["audited_misses"]) == (True, VERSION, 0)
    ((promise, more),) = asked
    assert (promise.iou, promise.risk, promise.whole_images, more) == (0.5, 0.4, False, {"as_annotations": False})
    assert leases == ["pseudo_label-3"]


def test_annotations_are_of_whole_images(command: Command, leases: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(job, "run", lambda place, project, promise, **more: asked.append((promise, more)))
    done = command("pseudo-label", "--project", "3", "--as-annotations", "--json")
    assert done.exit_code == 0, done.stderr
    assert asked[0][0].whole_images
    assert asked[0][1] == {"as_annotations": True}
    assert "neither annotations nor tasks have changed" in done.stderr
    assert json.loads(done.stdout) == {"project": 3, "changed": False}


def test_what_is_taken_back_is_told_and_what_a_person_changed_is_named(
    command: Command, leases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "undo", lambda place, project: job.Undone((VERSION,), 4, (17, 18)))
    done = command("pseudo-label", "--project", "3", "--undo", "--json")
    assert done.exit_code == 0, done.stderr
    assert "1 versions, 4 annotations taken back" in done.stderr
    assert "changed by a person since, so kept: annotations 17, 18" in done.stderr
    assert json.loads(done.stdout) == {"project": 3, "versions": [VERSION], "annotations": 4, "kept": [17, 18]}
    assert leases == ["pseudo_label-3"]


def test_an_unknown_project_and_an_impossible_promise_change_nothing(
    command: Command, leases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run", lambda *_, **__: pytest.fail("it ran"))
    assert "a project that is looked after (3)" in command("pseudo-label", "--project", "9").stderr
    refused = command("pseudo-label", "--project", "3", "--risk", "1.5")
    assert refused.exit_code == 2
    assert "risk" in refused.stderr
    assert leases == []
