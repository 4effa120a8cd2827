"""The command line as a whole: every command is there, starts light, and errors are sentences."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.main import get_command

from backend.cli.main import app
from backend.jobs import worker as worker_module
from backend.store.head_registry import Registry
from tests.backend.cli.conftest import Command

COMMANDS = list(get_command(app).commands)  # type: ignore[attr-defined]


def test_help_names_every_command(command: Command) -> None:
    assert {"up", "connect", "status", "retrain", "rollback"} <= set(COMMANDS)
    listed = command("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in listed
        assert "Usage:" in command(name, "--help").stdout


def test_help_needs_neither_torch_nor_a_web_framework() -> None:
    code = "import sys, backend.cli.main; print([m for m in ('torch', 'fastapi', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unusable_setting_is_a_sentence_without_a_traceback(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_PORT", "many")
    done = command("serve")
    assert done.exit_code == 2
    assert "USAM_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_prints_its_settings_without_secrets_and_listens_where_it_is_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: started.append(options))
    monkeypatch.setattr("backend.web.service.service_app", lambda settings: settings)
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "made"))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a-secret-token")
    done = command("serve", "--host", "127.0.0.1", "--port", "9876")
    assert done.exit_code == 0, done.stderr
    assert (started[0]["host"], started[0]["port"]) == ("127.0.0.1", 9876)
    assert "a-secret-token" not in done.stderr + done.stdout
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0, "the folder is its owner's alone"


def test_a_worker_has_a_copy_of_every_pointer_before_it_works(
    command: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(Registry, "keep_copies", lambda self: steps.append("copies"))
    monkeypatch.setattr(worker_module, "work", lambda settings: steps.append(f"work on {settings.data_dir}"))
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    assert command("worker").exit_code == 0
    assert steps == ["copies", f"work on {data}"]


def test_a_port_that_is_taken_is_said_before_anything_starts(command: Command, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("serve", "--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "in use; end the program that is on it, or choose another (--port" in done.stderr
