"""A damaged file of the registry is mended from its copy; where both are gone, `repair` mends what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.errors import RegistryError
from backend.store.head_registry import ABOUT_FILE, HEADS_FILE, POINTER_FILE, Registry
from backend.store.kept_twice import copy_of
from tests.backend.store.test_head_registry import head_set

DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\x00\xff{garbage" * 40),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "another kind": lambda path: path.write_bytes(b"[1, 2]"),
}
FILES = (POINTER_FILE, ABOUT_FILE, HEADS_FILE)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Project 3 with two versions, the second in use; project 4 with one."""
    registry = Registry(tmp_path / "heads")
    for project, seeds in ((3, (0, 1)), (4, (2,))):
        for seed in seeds:
            registry.promote(project, registry.publish(project, head_set(seed), samples=seed, labels=("1@a",)).version)
    return registry


def file_of(registry: Registry, name: str, project: int = 3) -> Path:
    folder = registry.folder / str(project)
    return folder / name if name == POINTER_FILE else folder / "versions" / head_set(1).version / name


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_one_damaged_file_mends_itself(registry: Registry, name: str, damage: str) -> None:
    before = registry.current(3), registry.history(3), registry.versions(3)
    path = file_of(registry, name)
    content = path.read_bytes()
    DAMAGE[damage](path)
    assert registry.load(3, registry.champion(3)).version == head_set(1).version
    assert (registry.current(3), registry.history(3), registry.versions(3)) == before
    assert path.read_bytes() == content
    assert registry.repair(3) == []


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "missing"])
def test_a_damaged_copy_is_written_again(registry: Registry, damage: str) -> None:
    for name in FILES:
        DAMAGE[damage](copy_of(file_of(registry, name)))
    assert registry.keep_copies() == len(FILES)
    assert registry.keep_copies() == 0
    for name in FILES:
        assert copy_of(file_of(registry, name)).read_bytes() == file_of(registry, name).read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [ABOUT_FILE, HEADS_FILE])
def test_a_version_lost_for_good_hides_no_other_and_repair_goes_back_one(
    registry: Registry, name: str, damage: str
) -> None:
    for path in (file_of(registry, name), copy_of(file_of(registry, name))):
        DAMAGE[damage](path)
    with pytest.raises(RegistryError):
        registry.load(3, registry.champion(3))
    assert head_set(0).version in [version.version for version in registry.versions(3)]
    assert list(registry.damaged(3)) == [head_set(1).version]
    assert registry.current(4) is not None

    lines = registry.repair(3)
    assert len(lines) == 2
    assert head_set(1).version in lines[0]
    assert registry.champion(3) == head_set(0).version
    assert registry.load(3, registry.champion(3)).version == head_set(0).version
    assert [step.kind for step in registry.history(3)] == ["promotion", "promotion", "repair"]
    assert registry.repair(3) == []
    assert registry.rollback(3) is None, "from the first version back to the checkpoint's own heads"

    published = registry.publish(3, head_set(1))
    registry.promote(3, published.version)
    assert registry.champion(3) == head_set(1).version


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "missing"])
def test_a_pointer_lost_for_good_goes_to_the_newest_intact_version(registry: Registry, damage: str) -> None:
    for path in (file_of(registry, POINTER_FILE), copy_of(file_of(registry, POINTER_FILE))):
        DAMAGE[damage](path)
    with pytest.raises(RegistryError, match="usam-backend repair"):
        registry.champion(3)
    assert registry.champion(4) == head_set(2).version
    (line,) = registry.repair(3)
    assert head_set(1).version in line
    assert registry.champion(3) == head_set(1).version
    assert (file_of(registry, POINTER_FILE).with_name(POINTER_FILE + ".damaged")).exists()


def test_where_nothing_is_intact_the_checkpoints_own_heads_are_used(registry: Registry) -> None:
    for path in sorted((registry.folder / "4").rglob("*.json*")):
        path.write_bytes(b"")
    assert any("heads that come with the checkpoint" in line for line in registry.repair(4))
    assert registry.champion(4) == ""
    assert registry.champion(3) == head_set(1).version


def test_a_registry_of_an_earlier_release_gets_its_copies(registry: Registry) -> None:
    copies = sorted(registry.folder.rglob("*.copy"))
    for path in copies:
        path.unlink()
    assert registry.keep_copies() == len(copies)
    assert sorted(registry.folder.rglob("*.copy")) == copies


def test_files_are_their_owners_alone(registry: Registry) -> None:
    for path in registry.folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            assert path.stat().st_mode & 0o077 == 0, path
