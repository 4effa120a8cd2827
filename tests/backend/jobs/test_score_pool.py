"""A pool whose proposals are kept is ranked without SAM, written whole, and left alone while it is right."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from backend.errors import JobBusy, JobError, LabelStudioError
from backend.jobs import score_pool
from backend.jobs.entry import run_job
from backend.jobs.sync import run as sync
from backend.resources import Resources
from tests.factories import brush, head_set, keep_proposals, resources
from usam.errors import MaskError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """Four tasks that nobody has labelled, with proposals; whoever asks for SAM fails."""
    opened = resources(tmp_path, strategy="samscore", image_rule="top-mean")
    studio: Any = opened.label_studio
    for number in range(1, 5):
        studio.add_task(number)
    sync(opened, 1)
    keep_proposals(opened, 1, 2, 3, 4)
    yield opened
    opened.store.close()


def run(place: Resources, project: int) -> None:
    run_job(place, "score_pool", project)


def state(place: Resources) -> tuple[str, str]:
    last = place.store.runs(1, "score_pool", limit=1)[0]
    return last.state, last.reason


def test_the_most_doubtful_is_first_and_written_with_its_masks(place: Resources) -> None:
    run(place, 1)
    assert [row.task for row in place.store.ranking(1)] == [4, 3, 2, 1]
    studio: Any = place.label_studio
    assert studio.known.model_version == place.store.served(1) == "nano-s+no-heads.2"
    written = {one.task: one for one in studio.prediction_list}
    assert sorted(written) == [1, 2, 3, 4]
    assert written[4].score == min(one.score for one in written.values())
    assert [region["score"] for region in written[4].result] == [0.86, 0.56]
    assert place.store.proposal_rows(1, [4])[4].drawings.keys() == {"0", "1"}, "what was drawn is kept"


def test_an_audit_is_marked_as_such_in_the_task(place: Resources) -> None:
    place.settings = place.settings.model_copy(update={"audit_share": 0.5})
    run(place, 1)
    studio: Any = place.label_studio
    written = {one.task: one.result for one in studio.prediction_list}
    audits = {row.task for row in place.store.ranking(1) if row.is_audit}
    assert 0 < len(audits) < 4
    for task, result in written.items():
        assert result
        assert all(("is an audit" in region["meta"]["text"][0]) is (task in audits) for region in result)


def test_a_damaged_mask_costs_its_task_the_masks_and_nothing_else(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = score_pool.draw_shown

    def drawn(one: Any, *rest: Any) -> Any:
        if one.iou[0] < 0.87:
            raise MaskError("a mask as it was packed", "damage", "make it again")
        return real(one, *rest)

    monkeypatch.setattr(score_pool, "draw_shown", drawn)
    run(place, 1)
    studio: Any = place.label_studio
    assert {one.task: bool(one.result) for one in studio.prediction_list} == {1: True, 2: True, 3: True, 4: False}


def test_an_order_that_is_right_is_left_alone(place: Resources) -> None:
    run(place, 1)
    studio: Any = place.label_studio
    studio.set_model_version(1, place.store.served(1))
    before = place.store.ranking(1)
    run(place, 1)
    assert state(place) == ("skipped", "the order in use is right")
    assert place.store.ranking(1) == before


def test_new_heads_order_the_same_proposals_anew(place: Resources) -> None:
    run(place, 1)
    heads = head_set(3, scale=1.0)
    place.registry.publish(1, heads)
    place.registry.promote(1, heads.version)
    run(place, 1)
    assert place.store.served(1) == f"nano-s+{heads.version}.3"
    assert [one.model_version for one in place.label_studio.predictions(1, [1])] == [place.store.served(1)]


def test_other_models_predictions_stay(place: Resources) -> None:
    run(place, 1)
    studio: Any = place.label_studio
    studio.import_predictions(1, [{"task": 1, "result": [], "score": 0.5, "model_version": "detector-7"}])
    place.settings = place.settings.model_copy(update={"image_rule": "max"})
    run(place, 1)
    assert studio.model_versions(1) == {"detector-7": 1, place.store.served(1): 4}


def test_a_pool_that_is_labelled_is_not_ranked(place: Resources) -> None:
    studio: Any = place.label_studio
    studio.task_list.clear()
    studio.add_task(1, [brush()])
    run(place, 1)
    assert state(place)[0] == "skipped"
    assert studio.prediction_list == []


def test_tasks_without_a_readable_image_come_last_and_say_why(place: Resources) -> None:
    images: Any = place.images
    studio: Any = place.label_studio
    studio.add_task(9)
    images.broken[9] = OverflowError("int too large to convert to float")
    run(place, 1)
    last = place.store.ranking(1)[-1]
    assert (last.task, last.reason) == (9, "OverflowError: int too large to convert to float")
    assert state(place)[0] == "done"


def test_a_pool_of_unreadable_images_fails_and_says_so(tmp_path: Path) -> None:
    place = resources(tmp_path)
    studio: Any = place.label_studio
    images: Any = place.images
    studio.add_task(1)
    images.broken[1] = ValueError("no image at all")
    with pytest.raises(JobError, match="no image at all"):
        run(place, 1)
    assert state(place)[0] == "failed"
    place.store.close()


def test_a_store_that_forgot_a_ranking_after_a_power_cut_makes_it_again(place: Resources, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "usam.db") as before, sqlite3.connect(tmp_path / "before.db") as kept:
        before.backup(kept)
    run(place, 1)
    with sqlite3.connect(tmp_path / "before.db") as kept, sqlite3.connect(tmp_path / "usam.db") as after:
        kept.backup(after)
    place.store.start_run(1, "retrain")  # so that the next ranking is another number's, as it is after a power cut
    assert place.store.served(1) == ""
    assert sync(place, 1).waked == ("score_pool",)  # type: ignore[union-attr]
    run(place, 1)
    studio: Any = place.label_studio
    assert studio.known.model_version == place.store.served(1)
    assert set(studio.model_versions(1)) == {place.store.served(1)}, "what the lost one wrote is gone"
    assert len(studio.prediction_list) == 4


def test_a_ranking_that_was_lost_with_its_job_is_asked_for_again(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, 1)
    place.store.start_run(1, "score_pool")
    assert sync(place, 1).waked == ()  # type: ignore[union-attr]
    monkeypatch.setattr("backend.pool.ranking.SILENT_S", -1.0)
    assert sync(place, 1).waked == ("score_pool",)  # type: ignore[union-attr]


def test_an_order_that_a_later_ranking_overtook_is_not_published(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.store, "is_running", lambda run: False)
    with pytest.raises(JobBusy, match="a later one"):
        run(place, 1)
    studio: Any = place.label_studio
    assert (studio.prediction_list, place.store.served(1)) == ([], "")


def test_deleting_earlier_rankings_leaves_off_where_other_jobs_wait(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.pool.publication.time.sleep", lambda seconds: None)
    run(place, 1)
    studio, queue = cast(Any, place.label_studio), cast(Any, place.queue)
    old = "nano-s+no-heads.0"
    studio.import_predictions(1, [{"task": 1, "result": [], "score": 0, "model_version": old}] * 100)
    queue.busy = True
    score_pool.tidy(place, 1)
    assert studio.model_versions(1)[old] == 99
    queue.busy = False
    score_pool.tidy(place, 1)
    assert old not in studio.model_versions(1)
    assert studio.model_versions(1)[place.store.served(1)] == 4


@pytest.fixture
def few(place: Resources, monkeypatch: pytest.MonkeyPatch) -> Resources:
    """The four tasks are ranked; a fifth has come, with proposals, that goes between them."""
    monkeypatch.setattr("backend.pool.revision.MOST_SHARE", 0.5)
    run(place, 1)
    studio: Any = place.label_studio
    studio.add_task(5)
    sync(place, 1)
    keep_proposals(place, 5)
    return place


def test_a_few_new_tasks_are_written_into_the_ranking_that_is_served(few: Resources) -> None:
    studio: Any = few.label_studio
    before = {one.task: (one.id, one.score) for one in studio.prediction_list}
    served = few.store.served(1)
    run(few, 1)
    assert state(few) == ("done", "first is task 5")
    assert few.store.runs(1, "score_pool", limit=1)[0].details["written"] == 1
    assert [row.task for row in few.store.ranking(1)] == [5, 4, 3, 2, 1]
    assert (few.store.served(1), studio.known.model_version, studio.model_versions(1)) == (served, served, {served: 5})
    assert {one.task: (one.id, one.score) for one in studio.prediction_list if one.task != 5} == before
    assert [one.task for one in sorted(studio.prediction_list, key=lambda one: one.score or 0)] == [5, 4, 3, 2, 1]
    run(few, 1)
    assert state(few)[0] == "skipped"


def test_after_a_change_that_was_cut_short_all_is_written_anew(few: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    studio: Any = few.label_studio
    served = few.store.served(1)

    def cut_short(*_: Any) -> None:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(few.store, "put_scores", cut_short)
        with pytest.raises(ConnectionError):
            run(few, 1)
    run(few, 1)
    assert few.store.served(1) != served
    assert studio.model_versions(1) == {few.store.served(1): 5}
    assert [one.task for one in sorted(studio.prediction_list, key=lambda one: one.score or 0)] == [5, 4, 3, 2, 1]


def test_a_task_deleted_while_a_change_is_written_makes_all_be_written_anew(
    few: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio: Any = few.label_studio
    send, refusals = studio.import_predictions, [400]

    def refuse_once(project: int, items: Any) -> int:
        if refusals:
            raise LabelStudioError("an import", "refused", "look", status=refusals.pop())
        return int(send(project, items))

    monkeypatch.setattr(studio, "import_predictions", refuse_once)
    run(few, 1)
    assert state(few)[0] == "done"
    assert studio.model_versions(1) == {few.store.served(1): 5}


def test_a_prediction_deleted_while_a_change_is_written_makes_all_be_written_anew(
    few: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio: Any = few.label_studio

    def gone(prediction: int, **_: Any) -> None:
        raise LabelStudioError("success", "HTTP 404", "look", status=404, is_from_label_studio=True)

    monkeypatch.setattr(studio, "update_prediction", gone)
    last = studio.task_list[-1]
    studio.import_predictions(
        1, [{"task": last.id, "result": [], "score": 0.5, "model_version": few.store.served(1)}]
    )  # of a run that was killed
    run(few, 1)
    assert state(few)[0] == "done"
    assert len(few.store.ranking(1)) == 5
