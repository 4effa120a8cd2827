"""The walls of the house: who may import whom, how long a module may be, and who knows what a region looks like."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("usam", "backend")
LONGEST = 400
REGION_KEYS = {"from_name", "to_name", "original_width", "original_height", "rectanglelabels", "brushlabels"}


@cache
def modules() -> dict[str, Path]:
    """Name -> file of every module of both packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imported(node: ast.AST, name: str) -> Iterator[str]:
    """Modules of ours that an import statement of the module `name` names."""
    if isinstance(node, ast.Import):
        targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{name} imports relatively"
        targets = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for target in targets:
        while target and target not in modules():
            target = target.rpartition(".")[0]
        if target:
            yield target


def imports(name: str) -> set[str]:
    """Every module of ours that `name` imports anywhere, for types alone included."""
    return {target for node in ast.walk(tree(name)) for target in imported(node, name)}


def imports_at_once(name: str) -> set[str]:
    """Those that are imported when `name` is: not inside functions, not for types alone."""

    def walk(statements: list[ast.stmt]) -> Iterator[str]:
        for node in statements:
            yield from imported(node, name)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for part in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, part, []))

    return set(walk(tree(name).body)) - {name}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def crossing(upper: str, lower: str) -> list[str]:
    """'module -> module' of every import from below `upper` of something below `lower`."""
    return [
        f"{name} -> {target}"
        for name in modules()
        for target in sorted(imports(name))
        if f"{name}.".startswith(f"{upper}.") and f"{target}.".startswith(f"{lower}.")
    ]


def rows() -> list[list[str]]:
    """The picture in docs/architecture.md, the uppermost row first."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"^```text rooms\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert picture, "docs/architecture.md has no picture of the rooms"
    return [line.split() for line in picture[1].splitlines() if not line.startswith("-")]


def test_the_library_never_imports_the_service() -> None:
    assert not crossing("usam", "backend")


def test_the_service_never_imports_the_research_wing() -> None:
    assert not crossing("backend", "usam.research")


def test_only_those_who_start_the_service_import_its_app() -> None:
    users = {name for name in modules() if "backend.web.app" in imports(name)}
    assert users <= {"backend.cli.main", "backend.web.service"}


def test_no_module_waits_for_itself() -> None:
    try:
        tuple(graphlib.TopologicalSorter({name: imports_at_once(name) for name in modules()}).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_every_room_is_in_the_picture_and_no_other() -> None:
    drawn = [name for row in rows() for name in row]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {room(name) for name in modules()} - set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down_the_picture(package: str) -> None:
    height = {name: -number for number, row in enumerate(rows()) for name in row}
    upward = {
        f"{name} -> {target}"
        for name in modules()
        if name.startswith(f"{package}.")
        for target in imports(name)
        if target not in PACKAGES and height[room(target)] > height[room(name)]
    }
    assert not upward


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()
    }
    assert {name for name, length in lengths.items() if length > LONGEST} == set()


def test_only_the_room_of_label_studio_knows_what_a_region_looks_like() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for name, path in modules().items()
        if room(name) not in ("backend.label_studio", "usam")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and node.value in REGION_KEYS
    }
    assert readers == set()


UNMIRRORED = {
    "tests/backend/cli/test_main.py",
    "tests/backend/cli/test_pseudo_label.py",
    "tests/backend/cli/test_up.py",
    "tests/backend/jobs/test_watched_worker.py",
    "tests/backend/local/test_redis_server.py",
}
"""Modules that are tested elsewhere alone; the set may only shrink."""


def test_every_other_module_of_the_service_has_its_test_beside_it() -> None:
    missing = {
        f"tests/{path.parent.relative_to(ROOT)}/test_{path.name}"
        for name, path in modules().items()
        if name.startswith("backend.") and path.name != "__init__.py" and ".migrations." not in name
        if not (ROOT / "tests" / path.parent.relative_to(ROOT) / f"test_{path.name}").exists()
    }
    assert missing == UNMIRRORED
