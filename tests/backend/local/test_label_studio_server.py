"""The account and the environment of a private Label Studio. Its start is in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ServerError
from backend.local.label_studio_server import Account, LabelStudioServer, find_label_studio


def test_the_account_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    account = Account.of_folder(tmp_path)
    assert Account.of_folder(tmp_path) == account
    assert len(account.token) == 40
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0
    assert account.password not in repr(account)
    assert account.token not in repr(account)
    other = tmp_path / "other"
    other.mkdir()
    assert Account.of_folder(other).token != account.token


def test_a_damaged_account_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text("{")
    with pytest.raises(ServerError, match="restore the file"):
        Account.of_folder(tmp_path)


def test_secrets_travel_in_the_environment_and_nothing_phones_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    server = LabelStudioServer(Path("label-studio"), tmp_path)
    told = server._environment(server.account)
    assert told["LABEL_STUDIO_USER_TOKEN"] == server.account.token
    assert (told["SENTRY_DSN"], told["COLLECT_ANALYTICS"], told["LATEST_VERSION_CHECK"]) == ("", "false", "false")
    assert told["SSRF_PROTECTION_ENABLED"] == told["ML_BLOCK_LOCAL_IP"] == "false"
    assert "PYTHONPATH" not in told


def test_the_program_is_found_by_variable_then_beside_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USAM_LABEL_STUDIO", raising=False)
    assert find_label_studio(tmp_path) is None
    own = tmp_path / ".venv-label-studio" / "bin" / "label-studio"
    named = tmp_path / "named" / "bin" / "label-studio"
    for program in (own, named):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        assert find_label_studio(tmp_path) != program
        program.chmod(0o755)
    assert find_label_studio(tmp_path) == own
    for given in (named, tmp_path / "named"):
        monkeypatch.setenv("USAM_LABEL_STUDIO", str(given))
        assert find_label_studio(tmp_path) == named
