"""Whoever is killed: no label is lost, no version is half there, the ranking is finished after a restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import Workplace, kill_group, small_region, workplace
from usam.checkpoints.registry import weights_of

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(
        tmp_path,
        label_studio_server,
        redis_server,
        retrain_after="3",
        audit_share="0",
        points_per_side="24",  # slow enough to be killed in the middle
        sync_seconds="1",
    ) as place:
        yield place


def test_a_killed_worker_goes_on_where_it_was(place: Workplace, pictures: list[Path]) -> None:
    store = place.store
    project = place.new_project(pictures)
    worker = place.start("worker", "worker")
    place.wait("two proposals", lambda: len(store.proposal_keys(project)) >= 2 or None)
    place.kill(worker)
    done = set(store.proposal_keys(project))
    assert 2 <= len(done) < len(pictures)
    assert store.served(project) == ""
    assert place.label_studio.model_versions(project) == {}

    place.start("worker", "worker")
    run = place.run_after("score_pool", 0)
    assert run.details["proposed"] == len(pictures) - len(done), "what was known is not asked again"
    assert run.details["verified"], run.reason
    assert "interrupted" in {past.state for past in store.runs(project, "score_pool")}
    assert len(store.ranking(project)) == len(pictures)


def test_without_redis_for_a_while_labels_still_count(
    place: Workplace, pictures: list[Path], redis_server: RedisServer
) -> None:
    project = place.new_project(pictures[:5])
    url = place.start_backend()
    place.connect(url)
    place.start("worker", "worker")
    place.run_after("score_pool", 0, seconds=180)
    tasks = [row.task for row in place.store.ranking(project)]

    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGKILL)
    before = place.last()
    for task in tasks[:3]:
        place.label_studio.annotate(task, [small_region(task)])
    kill_group(place.processes["backend"])
    redis_server.start()

    run = place.run_after("retrain", before, seconds=180)
    assert {row.task for row in place.store.samples(project, weights_of("nano-s"))} == set(tasks[:3])
    rescored = place.run_after("score_pool", run.id, seconds=180) if run.state == "done" else None
    if rescored is not None:
        assert place.label_studio.project(project).model_version == rescored.details["version"]
    for version in place.registry.versions(project):
        place.registry.load(project, version.version)
    place.wait("the earlier ranking to go", lambda: len(place.label_studio.model_versions(project)) == 1)
