"""Label Studio's numbers begin anew with its database: what was learnt of one project never speaks for another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import JobError
from backend.label_studio.records import Project
from backend.resources import Resources
from backend.store.earlier import FOLDER, KEPT, check_same, join
from tests.backend.store.rows import task
from tests.factories import head_set, resources

FIRST, SECOND = "2026-01-01T10:00:00Z", "2026-07-07T10:00:00Z"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """A project that was learnt from and ranked, and one beside it."""
    opened = resources(tmp_path)
    join(opened.store, opened.settings, made_at(FIRST))
    heads = head_set(1)
    for project in (1, 2):
        opened.registry.publish(project, heads)
        opened.registry.promote(project, heads.version)
        for name in KEPT[1:]:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{project}.json").write_text("{}")
    opened.store.record_tasks(1, [task(1)])
    opened.store.set_served(1, "v")
    yield opened
    opened.store.close()


def made_at(stamp: str) -> Project:
    return Project.read({"id": 1, "created_at": stamp})


def left_in(folder: Path) -> list[str]:
    names = {path.relative_to(folder).as_posix() for name in KEPT for path in (folder / name).glob("1*")}
    return sorted(names)


def test_the_same_project_keeps_all(place: Resources) -> None:
    check_same(place.store, place.settings, made_at("2026-01-01T10:00:00.000000+00:00"), "sync")
    assert place.registry.champion(1)
    assert (len(place.store.tasks(1)), place.store.projects()) == (1, [1])
    assert not (place.settings.data_dir / FOLDER).exists()


def test_a_job_meets_another_project_under_a_known_number(place: Resources) -> None:
    with pytest.raises(JobError, match="another one under its number, made on 2026-07-07T10:00:00; connect it"):
        check_same(place.store, place.settings, made_at(SECOND), "sync")
    assert place.store.projects() == [], "nobody has connected it"
    assert (place.store.tasks(1), place.store.served(1), place.registry.champion(1)) == ([], "", "")
    assert left_in(place.settings.data_dir) == []
    (aside,) = (place.settings.data_dir / FOLDER).iterdir()
    assert left_in(aside) == ["heads/1", "plans/1.json", "pseudo_labels/1.json", "reviews/1.json"]
    assert place.registry.champion(2), "another project keeps its own"
    check_same(place.store, place.settings, made_at(SECOND), "sync")


def test_another_project_that_is_connected_starts_with_nothing(place: Resources) -> None:
    join(place.store, place.settings, made_at(SECOND))
    assert (place.store.projects(), place.store.tasks(1), place.registry.champion(1)) == ([1], [], "")
