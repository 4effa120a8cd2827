"""`usam-backend connect` and `disconnect` as a shell sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli import connect
from backend.cli.main import app
from backend.errors import LabelStudioUnreachable
from backend.label_studio import setup
from backend.label_studio.setup import Step
from backend.settings import Settings
from backend.store import Store
from tests.factories import label_config

RUN = CliRunner()


@pytest.fixture
def waked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The jobs that were asked for; Label Studio answers with a project alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "data"))
    jobs: list[str] = []

    @contextmanager
    def client(settings: Settings) -> Iterator[Any]:
        made = partial(SimpleNamespace, stamp="2026", label_config=label_config("thing"))
        yield SimpleNamespace(project=lambda number: made(id=number))

    monkeypatch.setattr(connect, "open_label_studio", client)
    monkeypatch.setattr(connect, "ask_for", lambda settings, project, job: jobs.append(job))
    return jobs


def connected(tmp_path: Path) -> list[int]:
    return Store(f"sqlite:///{tmp_path / 'data' / 'usam.db'}").projects()


def test_a_project_that_is_not_connected_is_not_looked_after(
    waked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("backend", "could not", "no answer"), Step("webhook", "taken back", "as it was before")]
    monkeypatch.setattr(setup, "connect", lambda *given: iter(steps))
    result = RUN.invoke(app, ["connect", "--project", "7"])
    assert result.exit_code == 1
    assert "could not  backend: no answer" in result.output
    assert "taken back" in result.output
    assert (waked, connected(tmp_path)) == ([], [])


def test_a_connected_project_is_synced_and_ranked(
    waked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(setup, "connect", lambda *args: (given.append(args[2:]), iter([Step("a", "done", "b")]))[1])
    result = RUN.invoke(app, ["connect", "--project", "7", "--url", "http://10.0.0.5:9090"])
    assert result.exit_code == 0, result.output
    assert given == [(7, "http://10.0.0.5:9090", "")]
    assert (waked, connected(tmp_path)) == (["sync", "score_pool"], [7])


def test_disconnect_says_what_it_took_out(waked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "disconnect", lambda client, project, url: iter([Step("webhook", "done", url)]))
    monkeypatch.setattr(setup, "has_backend_of_ours", lambda client, project: False)
    result = RUN.invoke(app, ["disconnect", "--project", "7", "--url", "http://old:1"])
    assert (result.exit_code, result.stdout.split()) == (0, ["done", "webhook:", "http://old:1"])
    assert waked == []


@pytest.mark.parametrize(
    ("arguments", "others", "looked_after"), [([], 0, []), (["--url", "u"], 0, []), (["--url", "u"], 1, [7])]
)
def test_a_project_without_a_backend_of_ours_is_not_looked_after(
    waked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    others: int,
    looked_after: list[int],
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'data' / 'usam.db'}")
    store.join(7)
    monkeypatch.setattr(setup, "disconnect", lambda client, project, url: iter([Step("webhook", "done", url)]))
    monkeypatch.setattr(setup, "has_backend_of_ours", lambda client, project: bool(others))
    assert RUN.invoke(app, ["disconnect", "--project", "7", *arguments]).exit_code == 0
    assert store.projects() == looked_after
    store.close()


def test_a_project_is_left_also_where_label_studio_does_not_answer(
    waked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(client: Any, project: int, url: str) -> Iterator[Step]:
        raise LabelStudioUnreachable("an answer", "none", "start it")
        yield

    store = Store(f"sqlite:///{tmp_path / 'data' / 'usam.db'}")
    store.join(7)
    monkeypatch.setattr(setup, "disconnect", refuse)
    assert RUN.invoke(app, ["disconnect", "--project", "7"]).exit_code != 0
    assert store.projects() == []
    store.close()


def test_without_an_address_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path))
    result = RUN.invoke(app, ["disconnect", "--project", "7"])
    assert result.exit_code == 2
    assert "LABEL_STUDIO_URL" in result.output
