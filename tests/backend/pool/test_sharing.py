"""A pool's tasks are shared out among workers, each is asked about once, and who ranks waits for the last."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.errors import JobBusy
from backend.jobs.sync import run as sync
from backend.pool import sharing
from backend.pool.proposing import ProposalPlan
from backend.pool.sharing import ShardLost, Shared, finish, help_out, propose_missing
from backend.resources import Resources
from backend.store.records import KnownTask, ProposalRow
from tests.factories import resources

TASKS = 7
ELSEWHERE = "elsewhere:1"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tasks that the model was asked about, in order; shards are of three tasks."""
    asked: list[int] = []

    def propose(plan: ProposalPlan, missing: list[KnownTask], on_step: Any) -> None:
        for done, task in enumerate(missing):
            on_step(done)
            asked.append(task.id)
            plan.resources.store.put_proposal(1, ProposalRow(task.id, plan.key(task.data_key), b"", {}))

    monkeypatch.setattr(sharing, "propose", propose)
    monkeypatch.setattr(sharing, "SHARD_TASKS", 3)
    monkeypatch.setattr(sharing, "_POLL_S", 0.01)
    return asked


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = resources(tmp_path)
    studio: Any = opened.label_studio
    for number in range(1, TASKS + 1):
        studio.add_task(number)
    sync(opened, 1)
    yield opened
    opened.store.close()


def plan_of(place: Resources) -> ProposalPlan:
    return ProposalPlan.of(place, place.label_studio.project(1))


def share(place: Resources) -> Shared:
    with place.run(1, "score_pool") as progress:
        return propose_missing(plan_of(place), place.store.tasks(1), progress)


def test_a_pool_is_shared_out_and_help_is_asked_for(place: Resources, asked: list[int]) -> None:
    assert share(place) == Shared(7, 3, 1)
    assert asked == [1, 2, 3, 4, 5, 6, 7]
    queue: Any = place.queue
    assert queue.helpers == [2], "for all shards but its own"
    run = place.store.runs(1, "score_pool")[0]
    assert (run.done, run.total) == (7, 7)
    assert place.store.shard_progress(1, run.id).shards == 0
    assert share(place) == Shared()


def test_a_small_pool_is_one_shard_that_nobody_is_asked_about(place: Resources, asked: list[int]) -> None:
    with place.run(1, "score_pool") as progress:
        assert propose_missing(plan_of(place), place.store.tasks(1)[:3], progress) == Shared(3, 1, 1)
    queue: Any = place.queue
    assert queue.helpers == []


def test_who_ranks_waits_for_a_shard_of_another_and_does_nothing_of_it(
    place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def helped(project: int, most: int) -> int:
        shard = place.store.take_shard(1, ELSEWHERE, 60, key=plan_of(place).key())
        assert shard is not None

        def later() -> None:
            finish(plan_of(place), shard, lambda done: None)

        threading.Timer(0.2, later).start()
        return 1

    monkeypatch.setattr(place.queue, "wake_helpers", helped)
    assert share(place) == Shared(7, 3, 2)
    assert sorted(asked) == list(range(1, TASKS + 1)), "each once"


def test_the_shard_of_a_lost_worker_is_taken_again_where_it_stopped(
    place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(project: int, most: int) -> int:
        plan = plan_of(place)
        assert place.store.take_shard(1, ELSEWHERE, 0.1, key=plan.key()) is not None
        first = place.store.tasks(1)[0]
        place.store.put_proposal(1, ProposalRow(1, plan.key(first.data_key), b"", {}))
        return 1

    monkeypatch.setattr(place.queue, "wake_helpers", lost)
    assert share(place).tasks == 7
    assert sorted(asked) == [2, 3, 4, 5, 6, 7], "what it had kept is not asked again"


def test_a_run_whose_place_was_taken_stops(place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def another(project: int, most: int) -> int:
        run = place.store.start_run(1, "score_pool")
        place.store.start_shards(1, run, "k", [1], 3)
        return 0

    monkeypatch.setattr(place.queue, "wake_helpers", another)
    with pytest.raises(JobBusy, match="a later one"):
        share(place)
    assert asked == []


def test_a_helper_takes_what_is_there_and_leaves_for_other_jobs(place: Resources, asked: list[int]) -> None:
    assert help_out(place, 1) == 0
    run = place.store.start_run(1, "score_pool")
    place.store.start_shards(1, run, plan_of(place).key(), range(1, TASKS + 1), 3)
    queue: Any = place.queue
    queue.busy = True
    assert help_out(place, 1) == 1
    queue.busy = False
    assert help_out(place, 1) == 2
    assert asked == list(range(1, TASKS + 1))
    assert place.store.shard_progress(1, run).finished == 3


def test_a_helper_with_other_settings_does_nothing(place: Resources, asked: list[int]) -> None:
    run = place.store.start_run(1, "score_pool")
    place.store.start_shards(1, run, plan_of(place).key(), [1, 2], 3)
    place.settings = place.settings.model_copy(update={"points_per_side": 5})
    assert help_out(place, 1) == 0
    assert asked == []


def test_whoever_is_at_a_shard_that_was_dropped_stops(place: Resources, asked: list[int]) -> None:
    run = place.store.start_run(1, "score_pool")
    plan = plan_of(place)
    place.store.start_shards(1, run, plan.key(), [1, 2, 3], 3)
    shard = place.store.take_shard(1, ELSEWHERE, 60, key=plan.key())
    assert shard is not None

    def drop(done: int) -> None:
        place.store.drop_shards(1, run)

    with pytest.raises(ShardLost):
        finish(plan, shard, drop)


def test_a_helper_that_fails_gives_its_shard_back(
    place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.store.start_run(1, "score_pool")
    plan = plan_of(place)
    place.store.start_shards(1, run, plan.key(), [1, 2, 3], 3)

    def fail(*_: Any) -> None:
        raise OSError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(sharing, "propose", fail)
        with pytest.raises(OSError, match="no memory"):
            help_out(place, 1)
    assert place.store.take_shard(1, ELSEWHERE, 60, key=plan.key()) is not None


def test_a_picture_that_another_host_could_not_read_is_tried_once_more(
    place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def helped(project: int, most: int) -> int:
        shard = place.store.take_shard(1, ELSEWHERE, 60, key=plan_of(place).key())
        assert shard is not None
        for task in shard.tasks:
            place.store.put_proposal(1, ProposalRow(task, "", b"", {}, "no such file"))
        assert place.store.finish_shard(shard)
        return 1

    monkeypatch.setattr(place.queue, "wake_helpers", helped)
    share(place)
    assert asked == [4, 5, 6, 7, 1, 2, 3]
    assert place.store.unreadable(1) == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"tasks": "[1, 2"},
        {"tasks": ""},
        {"key": "?"},
        {"finished": None},
        {"until": 1e15},
        {"until": "soon"},
        {"holder": "\N{SUPERSCRIPT TWO}"},
        {"done": "some"},
    ],
)
def test_a_damaged_shard_neither_holds_up_a_ranking_nor_takes_tasks_from_it(
    place: Resources, asked: list[int], monkeypatch: pytest.MonkeyPatch, damage: dict[str, Any]
) -> None:
    """One whose key, or whether it is finished, could not be read was waited for without end; of one whose tasks could
    not be, these were ranked without having been looked at."""
    monkeypatch.setattr(sharing, "_POLL_S", 0.001)

    def spoil(project: int, most: int) -> int:
        (name, value), *_ = damage.items()
        with closing(sqlite3.connect(place.settings.data_dir / "usam.db")) as database, database:
            schema = database.execute("SELECT sql FROM sqlite_master WHERE name = 'shards'").fetchone()[0]
            database.execute("PRAGMA writable_schema = ON")
            loose = schema.replace(" NOT NULL", "")
            database.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'shards'", (loose,))
        with closing(sqlite3.connect(place.settings.data_dir / "usam.db")) as database, database:
            database.execute(f"UPDATE shards SET {name} = ? WHERE number = 1", (value,))
        return 0

    monkeypatch.setattr(place.queue, "wake_helpers", spoil)
    share(place)
    assert sorted(asked) == list(range(1, TASKS + 1)), "each once"
