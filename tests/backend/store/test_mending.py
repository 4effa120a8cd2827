"""A damaged store is set aside, and its projects are looked after again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.errors import StoreError
from backend.store import Store
from backend.store.mending import damage_of, mend_store, set_aside_misplaced
from tests.unprivileged import bound_by_permissions

DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"\x00\xffgarbage" * 900),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]),
    "a page overwritten": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + b"\xff" * 8192 + path.read_bytes()[4096 + 8192 :]
    ),
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "usam.db"
    store = Store(f"sqlite:///{path}")
    for project in (3, 5):
        store.join(project, f"stamp {project}")
    store.close()
    return path


def projects(path: Path) -> list[int]:
    store = Store(f"sqlite:///{path}")
    try:
        return store.projects()
    finally:
        store.close()


def test_a_store_in_order_is_left_as_it_is(database: Path) -> None:
    assert damage_of(database) == ""
    assert mend_store(database, [3, 7]) == [], "a project that was forgotten stays so"
    assert projects(database) == [3, 5]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_set_aside_and_begun_anew(database: Path, damage: str) -> None:
    DAMAGE[damage](database)
    assert damage_of(database)
    lines = mend_store(database, [3, 5])
    assert "set aside" in lines[0]
    assert projects(database) == [3, 5]
    assert damage_of(database) == ""
    assert len(list(database.parent.glob("usam.db.damaged-*"))) >= 1
    assert mend_store(database, [3, 5]) == []


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_an_emptied_store_gets_its_projects_again(database: Path, damage: str) -> None:
    database.write_bytes(b"") if damage == "empty" else database.unlink()
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    assert len(mend_store(database, [3, 5])) == 2
    assert projects(database) == [3, 5]


def test_what_is_misplaced_in_a_data_folder_is_set_aside_and_nothing_else(tmp_path: Path) -> None:
    wrong = ["inbox", "heads/3/champion.json", "heads/3/versions/a/version.json", "plans/3.json", "usam.db", "up.json"]
    right = ["heads/3/.lock", "heads/4/champion.json", "reviews/3.json", "of-somebody", "redis/redis.sock"]
    for name in (*wrong, *right):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "inbox").write_text("a file")
    for name in wrong[1:3]:
        os.mkfifo(tmp_path / name)
    (tmp_path / wrong[3]).symlink_to("/dev/zero")
    (tmp_path / wrong[4]).mkdir()
    (tmp_path / wrong[5]).symlink_to(wrong[5])
    for name in right[:3]:
        (tmp_path / name).write_text("{}")
    for name in right[3:]:
        os.mkfifo(tmp_path / name)
    (tmp_path / "embeddings").symlink_to(tmp_path / "heads")
    lines = set_aside_misplaced(tmp_path)
    assert sorted(line.split(" is of another kind")[0] for line in lines) == sorted(
        str(tmp_path / one) for one in wrong
    )
    assert not any((tmp_path / name).is_symlink() or (tmp_path / name).exists() for name in wrong)
    assert all((tmp_path / name).exists() for name in right)
    assert set_aside_misplaced(tmp_path) == []


def test_a_store_that_may_not_be_read_is_not_begun_anew(database: Path) -> None:
    database.chmod(0o000)
    with pytest.raises(PermissionError):
        bound_by_permissions(lambda: mend_store(database, [3]))
    database.chmod(0o600)
    assert projects(database) == [3, 5]


def test_a_store_that_another_program_has_locked_is_not_begun_anew(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.01))
    other = connect(database)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="end what uses it"):
        damage_of(database)
    other.close()
    assert damage_of(database) == ""
