"""A damaged store is set aside, and its projects are looked after again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.store import Store
from backend.store.mending import damage_of, mend_store

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
