"""A job is found by its name and runs alone of its kind; what goes wrong is raised for the queue to try again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from backend.errors import JobBusy, JobError, LabelStudioError
from backend.jobs import entry
from backend.queue import JOB_NAMES
from backend.resources import Resources
from tests.factories import resources


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = resources(tmp_path)
    opened.store.join(7)
    yield opened
    opened.store.close()


def module_of(job: str) -> str:
    return "backend.jobs.acceptance" if job == "pseudo_label" else f"backend.jobs.{job}"


@pytest.mark.parametrize("job", [job for job in JOB_NAMES if job != "score_shard"])
def test_every_job_runs_under_a_lease_of_its_own(place: Resources, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    done: list[tuple[str, int]] = []

    def work(given: Resources, project: int) -> None:
        assert given is place
        assert not place.store.acquire(f"{job}-{project}", "another", 60), "nobody else may do it now"
        assert place.store.acquire(f"{job}-8", "another", 60), "other projects go on"
        done.append((job, project))

    monkeypatch.setattr(import_module(module_of(job)), "run", work)
    entry.run_job(place, job, 7)
    assert done == [(job, 7)]
    assert place.store.acquire(f"{job}-7", "another", 60), "the lease is given back"


def test_a_job_that_another_worker_is_at_is_busy(place: Resources) -> None:
    place.store.acquire("sync-7", "another", 60)
    with pytest.raises(JobBusy, match="sync-7"):
        entry.run_job(place, "sync", 7)


@pytest.mark.parametrize("job", JOB_NAMES)
def test_no_job_touches_a_project_that_is_not_connected(place: Resources, job: str) -> None:
    place.store.leave(7)
    for project in (7, 8):
        entry.run_job(place, job, project)
        assert place.store.runs(project) == []


def test_an_unknown_job_says_which_there_are(place: Resources) -> None:
    with pytest.raises(JobError, match="sync, score_pool, score_shard, retrain, pseudo_label"):
        entry.run_job(place, "format_disk", 7)


def test_a_job_that_fails_is_raised_and_its_lease_given_back(place: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Resources, __: int) -> None:
        raise JobError("tasks", "none", "import some")

    monkeypatch.setattr("backend.jobs.sync.run", fail)

    @contextmanager
    def opened(_: Any) -> Iterator[Resources]:
        yield place

    monkeypatch.setattr(Resources, "open", opened)
    with pytest.raises(JobError, match="import some"):
        entry.perform("sync", 7)
    assert place.store.acquire("sync-7", "another", 60)
    assert place.on_progress is entry._tell_queue


def test_progress_is_added_to_what_the_queue_knows_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[dict[str, Any]] = []
    job = SimpleNamespace(meta={"job": "sync"}, save_meta=lambda: saved.append(dict(job.meta)))
    monkeypatch.setattr("rq.get_current_job", lambda: job)
    entry._tell_queue({"done": 3, "total": 8})
    assert saved == [{"job": "sync", "done": 3, "total": 8}]


def test_progress_that_cannot_be_told_harms_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail() -> None:
        asked.append("save")
        raise redis.ConnectionError("gone")

    monkeypatch.setattr("rq.get_current_job", lambda: SimpleNamespace(meta={}, save_meta=fail))
    entry._tell_queue({"done": 1})
    assert asked == ["save"]
    monkeypatch.setattr("rq.get_current_job", lambda: None)
    entry._tell_queue({"done": 1})


def test_a_sync_goes_on_with_deleting_and_does_not_fail_by_it(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def tidy(_: Resources, __: int) -> None:
        done.append("tidy")
        raise LabelStudioError("an answer", "none", "start it")

    monkeypatch.setattr("backend.jobs.sync.run", lambda *_: done.append("sync"))
    monkeypatch.setattr("backend.jobs.score_pool.tidy", tidy)
    entry.run_job(place, "sync", 7)
    assert done == ["sync", "tidy"]
