"""A ranking is written before it is served and served before the old one goes; what is served is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from backend.errors import JobError, LabelStudioError
from backend.label_studio.records import ServedTask
from backend.pool.publication import AT_ONCE, PAUSE, delete_before, delete_gently, revise, verify, write
from backend.pool.revision import Revision
from backend.store.records import ScoreRow
from tests.factories import FakeLabelStudio

VERSION = "nano-s+no-heads.7"


class Studio(FakeLabelStudio):
    """Refuses the first imports with `refusals`, and notes the order of what is done."""

    def __init__(self, refusals: Iterable[int] = ()) -> None:
        super().__init__()
        self.refusals, self.calls = list(refusals), list[str]()
        self.served: ServedTask | None = None

    def import_predictions(self, project: int, items: Any) -> int:
        rows = list(items)
        self.calls.append(f"import {len(rows)}")
        if self.refusals:
            raise LabelStudioError("an import", "refused", "look", status=self.refusals.pop(0))
        return super().import_predictions(project, rows)

    def set_model_version(self, project: int, version: str) -> None:
        self.calls.append(f"serve {version}")
        super().set_model_version(project, version)

    def delete_version(self, project: int, version: str) -> None:
        self.calls.append(f"delete {version}")
        super().delete_version(project, version)

    def next_task(self, project: int) -> ServedTask | None:
        self.calls.append("lock")
        return self.served


def rows(*tasks: int) -> list[ScoreRow]:
    return [ScoreRow(task, VERSION, 1.0, rank / 10, rank, False) for rank, task in enumerate(tasks)]


def prediction_of(row: ScoreRow) -> Mapping[str, Any]:
    return {"task": row.task, "result": [], "score": row.confidence}


def published(studio: Studio, *tasks: int) -> Any:
    client: Any = studio
    return write(client, 1, rows(*tasks), prediction_of, VERSION)


def told(studio: Studio, first: int, **more: Any) -> str:
    client: Any = studio
    return verify(client, 1, VERSION, first, **more)


def test_every_row_is_imported_before_its_version_is_served() -> None:
    studio = Studio()
    done = published(studio, 4, 2)
    assert studio.calls == ["import 2", f"serve {VERSION}"]
    assert [(one.task, one.score, one.model_version) for one in studio.prediction_list] == [
        (4, 0.0, VERSION),
        (2, 0.1, VERSION),
    ]
    assert (done.version, done.rows) == (VERSION, rows(4, 2))
    assert told(studio, 4) == ""


def test_a_task_deleted_meanwhile_is_left_out_and_the_rest_goes_under_another_name() -> None:
    studio = Studio([400])
    studio.add_task(2)
    done = published(studio, 4, 2)
    assert done.version == f"{VERSION}-1"
    assert [row.task for row in done.rows] == [2]
    assert studio.known.model_version == f"{VERSION}-1"


@pytest.mark.parametrize(("refusals", "imports"), [([500], 1), ([400, 400, 400], 3), ([400, 403], 2)])
def test_an_import_that_is_refused_for_another_reason_serves_nothing(refusals: list[int], imports: int) -> None:
    studio = Studio(refusals)
    studio.add_task(4)
    with pytest.raises(LabelStudioError):
        published(studio, 4)
    assert studio.calls == ["import 1"] * imports


def test_a_pool_that_has_vanished_is_not_served_as_an_empty_version() -> None:
    studio = Studio([400])
    with pytest.raises(JobError, match="none left"):
        published(studio, 4, 2)
    assert studio.known.model_version == ""


def test_old_rankings_go_and_what_is_served_or_others_stays() -> None:
    studio = Studio()
    names = (VERSION, "nano-s+no-heads.6", "nano-m+0123456789ab.5-1", "detector.17", "nano-s+no-heads.pseudo-3")
    studio.import_predictions(1, [{"task": 1, "result": [], "score": 0, "model_version": name} for name in names])
    client: Any = studio
    assert delete_before(client, 1, VERSION) == ["nano-s+no-heads.6", "nano-m+0123456789ab.5-1"]
    assert set(studio.model_versions(1)) == {VERSION, "detector.17", "nano-s+no-heads.pseudo-3"}


@pytest.mark.parametrize(
    ("first", "change", "words"),
    [
        (4, {"model_version": "other"}, f"the project's version is 'other', not '{VERSION}'"),
        (2, {}, "task 4 has the lowest score, not task 2"),
        (4, {"sampling": "Sequential sampling"}, "usam-backend connect --project 1"),
        (4, {"maximum_annotations": 2}, "several annotations of each"),
    ],
)
def test_an_order_that_is_not_served_is_said_with_the_reason(first: int, change: dict[str, Any], words: str) -> None:
    studio = Studio()
    published(studio, 4, 2)
    studio.known = replace(studio.known, **change)
    assert words in told(studio, first)


def test_a_project_without_predictions_serves_nothing_of_ours() -> None:
    studio = Studio()
    studio.set_model_version(1, VERSION)
    assert told(studio, 4) == "task none has the lowest score, not task 4"


def test_a_lock_is_taken_only_when_asked_for() -> None:
    studio = Studio()
    published(studio, 4, 2)
    assert told(studio, 4) == ""
    assert "lock" not in studio.calls
    assert told(studio, 4, take_lock=True) == "Label Studio serves task none, not task 4"
    studio.served = ServedTask(2, "Task lock", [])
    assert told(studio, 4, take_lock=True) == (
        "Label Studio serves task 2 (a task this account holds since before), not task 4"
    )
    studio.served = ServedTask(4, "Uncertainty sampling", [])
    assert told(studio, 4, take_lock=True) == ""


def test_what_a_later_ranking_writes_meanwhile_stays() -> None:
    studio = Studio()
    names = ("nano-s+no-heads.8", "nano-s+no-heads.7-1", VERSION, "nano-s+no-heads.10")
    studio.import_predictions(1, [{"task": 1, "result": [], "score": 0, "model_version": name} for name in names])
    client: Any = studio
    assert delete_before(client, 1, "nano-s+no-heads.8") == ["nano-s+no-heads.7-1", VERSION]


OLD = "nano-s+no-heads.6"


def big(studio: Studio) -> None:
    """A large earlier version beside what is served and a version in whose name its own stands."""
    rows = [{"task": n, "result": [], "score": 0, "model_version": OLD} for n in range(120)]
    others = [{"task": 1, "result": [], "score": 0, "model_version": name} for name in (VERSION, f"{OLD}0")]
    studio.import_predictions(1, others + rows)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    paused: list[float] = []
    monkeypatch.setattr("backend.pool.publication.time.sleep", paused.append)
    return paused


def test_a_large_version_goes_bit_by_bit_so_that_others_can_write(no_pauses: list[float]) -> None:
    studio: Any = Studio()
    big(studio)
    whole: list[int] = []
    studio.delete_version = lambda project, version: (
        whole.append(studio.model_versions(1)[version]),
        FakeLabelStudio.delete_version(studio, project, version),
    )
    assert delete_before(studio, 1, VERSION) == [OLD]
    assert whole == [AT_ONCE], "no more one by one than has to be"
    assert len(no_pauses) == 120 - AT_ONCE
    assert all(0 <= pause <= PAUSE for pause in no_pauses)
    assert studio.model_versions(1) == {VERSION: 1, f"{OLD}0": 1}


@pytest.mark.usefixtures("no_pauses")
def test_any_versions_go_gently_and_only_those() -> None:
    studio: Any = Studio()
    big(studio)
    before = list(studio.prediction_list)
    assert delete_gently(studio, 1, {VERSION: 1, OLD: 120}) == [VERSION, OLD]
    assert studio.prediction_list == [one for one in before if one.model_version == f"{OLD}0"]
    assert studio.calls == ["import 122", f"delete {VERSION}", f"delete {OLD}"]


@pytest.mark.usefixtures("no_pauses")
def test_deletion_stops_when_told_and_goes_on_the_next_time() -> None:
    studio: Any = Studio()
    big(studio)
    assert delete_before(studio, 1, VERSION, lambda: False) == []
    assert AT_ONCE < studio.model_versions(1)[OLD] < 120
    left = studio.model_versions(1)[OLD]
    assert delete_before(studio, 1, VERSION, lambda: False) == ([] if left > AT_ONCE + 25 else [OLD])
    assert delete_before(studio, 1, VERSION) in ([OLD], [])
    assert studio.model_versions(1) == {VERSION: 1, f"{OLD}0": 1}


@pytest.mark.usefixtures("no_pauses")
def test_what_cannot_be_found_prediction_by_prediction_goes_in_one_go() -> None:
    studio: Any = Studio()
    big(studio)
    studio.of_version = lambda project, version, page: None
    assert delete_before(studio, 1, VERSION) == [OLD]
    assert studio.model_versions(1) == {VERSION: 1, f"{OLD}0": 1}


def change(written: dict[int, float], *rest: int) -> Revision:
    moved = [ScoreRow(task, VERSION, 1.0, score, 0, False) for task, score in written.items()]
    return Revision([*moved, *rows(*rest)], moved)


def test_a_change_is_written_into_what_is_served_and_nothing_else_is_touched() -> None:
    studio: Any = Studio()
    published(studio, 4, 2, 1)
    studio.import_predictions(1, [{"task": 2, "result": [], "score": 0.1, "model_version": VERSION}])
    studio.import_predictions(1, [{"task": 2, "result": [], "score": 0.7, "model_version": "detector-7"}])
    studio.calls.clear()
    done = revise(studio, 1, change({2: 0.15, 9: 0.18}, 4, 1), prediction_of, VERSION)
    assert studio.calls == ["import 1"]
    assert {(one.task, one.score, one.model_version) for one in studio.prediction_list} == {
        (4, 0.0, VERSION),
        (2, 0.15, VERSION),
        (9, 0.18, VERSION),
        (1, 0.2, VERSION),
        (2, 0.7, "detector-7"),
    }
    assert len(studio.prediction_list) == 5, "a second reading of what was there before is gone"
    assert done.version == VERSION
