"""Several workers on one queue and one store: work is shared, done once, and taken over from one that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import Workplace, workplace

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(
        tmp_path, label_studio_server, redis_server, audit_share="0", points_per_side="12", sync_seconds="1"
    ) as place:
        yield place


def holders(place: Workplace, projects: list[int]) -> set[str]:
    """Who ranks these projects now, by their leases."""
    import sqlalchemy as sql

    from backend.store.records import Lease

    names = [f"score_pool-{project}" for project in projects]
    with place.store._read() as connection:
        return set(connection.scalars(sql.select(Lease.holder).where(Lease.name.in_(names))))


def wait_for_tidying(place: Workplace, version: str) -> None:
    project = place.project
    place.wait("the lost ranking to go", lambda: list(place.label_studio.model_versions(project)) == [version])


def test_two_workers_rank_two_projects_each_task_once_and_one_takes_over(
    place: Workplace, pictures: list[Path]
) -> None:
    projects = [place.new_project(pictures[:6]), place.new_project(pictures[4:])]
    workers = [place.start(f"worker-{number}", "worker") for number in (1, 2)]
    place.wait("both workers at work", lambda: len(holders(place, projects)) == 2, 120)

    place.kill(workers[0])  # one is lost while it ranks
    for project, count in zip(projects, (6, len(pictures) - 4), strict=True):
        place.project = project
        place.run_after("score_pool", 0, seconds=200)
        ranking = place.store.ranking(project)
        assert len({row.task for row in ranking}) == len(ranking) == count
        runs = place.store.runs(project, "score_pool")
        assert "failed" not in {run.state for run in runs}
        (done,) = [run for run in runs if run.state == "done"]
        assert done.details["verified"], done.reason
        wait_for_tidying(place, done.details["version"])
        assert place.label_studio.first_by_score(project)[0][0] == ranking[0].task


def test_two_workers_share_one_project_and_one_that_is_lost_costs_its_images_alone(
    place: Workplace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_POINTS_PER_SIDE", "16")
    place.environment["USAM_POINTS_PER_SIDE"] = "16"
    project = place.new_project(pictures * 4)
    workers = [place.start(f"worker-{number}", "worker") for number in (1, 2)]
    place.wait("two workers at its shards", lambda: len(shard_holders(place, project)) == 2, 120)
    (ranks,) = holders(place, [project])
    helper = next(one for one in workers if int(ranks.rpartition(":")[2]) not in place.children(one))
    place.kill(helper)
    done = place.run_after("score_pool", 0, seconds=200)
    assert done.details["verified"], done.reason
    assert done.details["proposed"] == len(pictures) * 4
    assert (done.done, done.total) == (len(pictures) * 4, len(pictures) * 4)
    assert len([run for run in place.store.runs(project, "score_pool") if run.state == "done"]) == 1
    assert len(place.store.ranking(project)) == len(pictures) * 4
    assert shard_holders(place, project) == set()
    wait_for_tidying(place, done.details["version"])


def shard_holders(place: Workplace, project: int) -> frozenset[str]:
    """Who is or was at the project's shards."""
    runs = place.store.runs(project, "score_pool", limit=1)
    return place.store.shard_progress(project, runs[0].id).holders if runs else frozenset()
