"""What happens where any one file of a data folder is damaged: it mends itself, or `usam-backend repair` mends it.

Redis's files are in tests/integration/test_redis_data.py, the inbox's in tests/backend/web; Label Studio's own database
holds people's work and is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.inference.cache import EmbeddingFiles
from backend.local.label_studio_server import Account
from backend.local.running import announce, recall, remember, running_in
from backend.metrics.service import Metrics
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.kept_twice import write_twice
from backend.web.inbox import Inbox
from tests.backend.cli.conftest import Command
from tests.backend.store.test_head_registry import head_set
from tests.unprivileged import bound_by_permissions

VERSION = head_set(1).version
IN_VERSION = f"heads/3/versions/{VERSION}"
FILES = {
    "heads/3/champion.json": "by itself",
    "heads/3/champion.json.copy": "by itself",
    f"{IN_VERSION}/version.json": "by itself",
    f"{IN_VERSION}/version.json.copy": "by itself",
    f"{IN_VERSION}/heads.safetensors": "by itself",
    f"{IN_VERSION}/heads.safetensors.copy": "by itself",
    "heads/3/.lock": "by itself",
    "label-studio/account.json": "by itself",
    "label-studio/account.json.copy": "by itself",
    "up.json": "by itself",
    "up.json.copy": "by itself",
    "up.env": "by itself",
    "usam.db": "by repair",
}
DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\x00\xff{garbage" * 400),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USAM_DATA_DIR", str(data))
    registry = Registry(data / "heads")
    for seed in (0, 1):
        registry.promote(3, registry.publish(3, head_set(seed)).version)
    (data / "label-studio").mkdir()
    account = Account.of_folder(data / "label-studio")
    remember(data, {"process": {}})
    announce(data, {"LABEL_STUDIO_URL": "http://127.0.0.1:1", "LABEL_STUDIO_API_KEY": account.token})
    notes = (data / "up.json").read_text()
    write_twice(data / "up.json", notes.replace('"pid"', '"gone"').encode())  # no stack runs
    return data


def works(folder: Path, command: Command, account: Account) -> bool:
    """Whether all that the folder held is there: project, heads in use, account; and notes stop no start."""
    recall(folder)
    assert running_in(folder) is None
    if Account.of_folder(folder / "label-studio") != account or command("status").exit_code != 0:
        return False
    store = Store(f"sqlite:///{folder / 'usam.db'}")
    try:
        known = store.projects()
    finally:
        store.close()
    registry = Registry(folder / "heads")
    return known == [3] and registry.champion(3) == VERSION and registry.load(3, VERSION).version == VERSION


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(folder: Path, command: Command, name: str, damage: str) -> None:
    account = Account.of_folder(folder / "label-studio")
    assert works(folder, command, account)
    assert (folder / name).exists()
    DAMAGE[damage](folder / name)
    if FILES[name] == "by repair":
        assert not works(folder, command, account)
        repaired = command("repair")
        assert repaired.exit_code == 0, repaired.output
    assert works(folder, command, account)


def test_a_project_that_cannot_be_read_keeps_no_other_from_being_mended(folder: Path, command: Command) -> None:
    registry = Registry(folder / "heads")
    registry.promote(4, registry.publish(4, head_set(2)).version)
    (folder / "heads/4/champion.json").unlink()
    (folder / "heads/4/champion.json.copy").write_bytes(b"{")
    (folder / "heads/3/versions").chmod(0)
    try:
        repaired = bound_by_permissions(lambda: command("repair"))
        assert bound_by_permissions(registry.keep_copies) == 0
    finally:
        (folder / "heads/3/versions").chmod(0o700)
    assert repaired.exit_code == 1
    assert "project 3: cannot be repaired: expected a readable" in repaired.stdout
    assert f"project 4: champion.json: now {head_set(2).version}" in repaired.stdout


@pytest.mark.parametrize("shut", ["heads", "pseudo_labels"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_folder_that_cannot_be_read_is_said_and_the_rest_is_mended(
    folder: Path, command: Command, shut: str, options: list[str]
) -> None:
    (folder / shut).mkdir(exist_ok=True)
    (folder / shut).chmod(0)
    try:
        repaired = bound_by_permissions(lambda: command("repair", *options))
    finally:
        (folder / shut).chmod(0o700)
    assert repaired.exit_code == 1
    assert f"{shut}, got Permission denied; correct its rights" in repaired.stdout


def test_a_folder_of_embeddings_that_cannot_be_read_is_done_without(folder: Path) -> None:
    (folder / "embeddings").mkdir(mode=0o000)
    assert bound_by_permissions(lambda: EmbeddingFiles(folder / "embeddings", 10**6).get("content", "nano-s")) is None


def test_an_inbox_that_cannot_be_written_keeps_no_service_from_starting(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "inbox").mkdir(mode=0o500)
    inbox = bound_by_permissions(lambda: Inbox(None, None, Metrics(), folder / "inbox"))
    assert inbox.put(b'{"action":"START_TRAINING","project":{"id":3}}')
    inbox.close()
    assert "events are not written down" in caplog.text
