"""Masks are accepted under a promise, traced, and taken back, from kept proposals alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.jobs.pseudo_label import run, undo, watch_in_background
from backend.jobs.sync import run as sync
from backend.pool.policy import audit_tasks
from backend.resources import Resources
from backend.store.pseudo_label_store import PseudoLabelStore, accepted_by
from tests.factories import FakeModel, brush, keep_proposals, resources
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import RiskGuarantee

PROMISE = RiskGuarantee(0.5, 0.4, 0.7, per_image=1)
TASKS = range(1, 21)


def ready(folder: Path) -> Resources:
    """Twenty tasks with one proposal each, about half of them audits that nobody has labelled."""
    opened = resources(folder, FakeModel())
    opened.settings = opened.settings.model_copy(update={"audit_share": 0.5})
    studio: Any = opened.label_studio
    for number in TASKS:
        studio.add_task(number)
    sync(opened, 1)
    keep_proposals(opened, *TASKS, count=1)
    return opened


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = ready(tmp_path)
    yield opened
    opened.store.close()


def audits(place: Resources) -> set[int]:
    return audit_tasks(place.settings, 1, TASKS)


def label_audits(place: Resources) -> None:
    """A person who finds each mask of the audits right."""
    studio: Any = place.label_studio
    studio.task_list = [task for task in studio.task_list if task.id not in audits(place)]
    for number in sorted(audits(place)):
        studio.add_task(number, [brush("drawn")], updated_at="2026-01-02T00:00:00.000000Z")
    sync(place, 1)


def test_without_audit_labels_there_is_no_promise(place: Resources) -> None:
    with pytest.raises(PseudoLabelError, match="audit"):
        run(place, 1, PROMISE)
    last = place.store.runs(1, "pseudo_label", limit=1)[0]
    assert last.state == "rejected"
    assert last.details["needed"] > 0


def test_what_the_promise_allows_is_accepted_once_and_taken_back(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_audits(place)
    record = run(place, 1, PROMISE)
    assert record is not None
    studio: Any = place.label_studio
    written = [one for one in studio.prediction_list if one.model_version == record.version]
    assert [one.task for one in written] == record.tasks
    assert set(record.tasks) <= set(TASKS) - audits(place)
    assert {accepted_by(region) for one in written for region in one.result} == {record.version}
    assert run(place, 1, PROMISE) is None, "neither labels nor tasks have changed"
    monkeypatch.setattr("backend.pool.publication.AT_ONCE", 1)
    one_by_one: list[int] = []
    delete = studio.delete_prediction
    monkeypatch.setattr(studio, "delete_prediction", lambda number: (one_by_one.append(number), delete(number)))
    assert undo(place, 1).versions == (record.version,)
    assert len(one_by_one) == len(written) - 1, "many are taken back gently"
    assert studio.prediction_list == []
    assert PseudoLabelStore.of(place.settings).standing(1) is None


def test_a_watch_without_a_promise_says_so(place: Resources) -> None:
    watch_in_background(place, 1)
    last = place.store.runs(1, "pseudo_label", limit=1)[0]
    assert (last.state, last.reason) == ("skipped", "no promise is in force")


def test_only_what_is_wholly_ours_is_deleted(place: Resources) -> None:
    label_audits(place)
    promise = RiskGuarantee(0.5, 0.4, 0.7, per_image=1, whole_images=True)
    record = run(place, 1, promise, as_annotations=True)
    assert record is not None
    studio: Any = place.label_studio
    persons = {one.id for one in studio.annotation_list if one.task in audits(place)}
    ours = [one for one in studio.annotation_list if one.id not in persons]
    assert len(ours) == len(record.tasks) >= 4
    ours[0].result.append({"id": "c", "type": "choices", "value": {"choices": ["blurred"]}})
    ours[1].result[0]["value"] = brush("drawn")["value"] | {"brushlabels": ["other"]}
    beside = studio.annotate(ours[2].task, [brush("a person's own")])
    gone = ours[3].id
    taken_before = studio.annotations

    def taken_by_another(project: int, tasks: Any) -> Any:
        found = taken_before(project, tasks)
        if any(one.id == gone for one in studio.annotation_list) and any(one.id == gone for one in found):
            studio.delete_annotation(gone)
        return found

    studio.annotations = taken_by_another
    undone = undo(place, 1)
    assert set(undone.kept) == {ours[0].id, ours[1].id}
    assert undone.annotations == len(ours) - 3, "the one that somebody else deleted meanwhile is nobody's trouble"
    assert {one.id for one in studio.annotation_list} == persons | {ours[0].id, ours[1].id, beside.id}
    assert undo(place, 1).annotations == 0
