"""What the next labels will bring, as a page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.store import Store
from tests.backend.cli.conftest import Command


def test_the_plan_as_a_page(command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    monkeypatch.setenv("USAM_HEADS", "none")
    planned = SimpleNamespace(
        lines=lambda: ["the next 100 labels bring +0.01"], plan=SimpleNamespace(gains={100: 0.01})
    )
    monkeypatch.setattr("backend.learning.label_plan.plan_project", lambda *_: planned)
    store = Store(f"sqlite:///{data / 'usam.db'}")
    store.finish_run(store.start_run(3, "retrain"), "rejected", "not <surely> better")
    store.close()
    page = tmp_path / "page.html"
    done = command("plan", "--project", "3", "--report", page)
    assert done.exit_code == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "the next 100 labels bring +0.01" in text
    assert "not &lt;surely&gt; better" in text
    assert command("plan", "--project", "3", "--report", "page.txt").exit_code == 2
