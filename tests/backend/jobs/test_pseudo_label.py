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


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """Twenty tasks with one proposal each, about half of them audits that nobody has labelled."""
    opened = resources(tmp_path, FakeModel())
    opened.settings = opened.settings.model_copy(update={"audit_share": 0.5})
    studio: Any = opened.label_studio
    for number in TASKS:
        studio.add_task(number)
    sync(opened, 1)
    keep_proposals(opened, *TASKS, count=1)
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


def test_what_the_promise_allows_is_accepted_once_and_taken_back(place: Resources) -> None:
    label_audits(place)
    record = run(place, 1, PROMISE)
    assert record is not None
    studio: Any = place.label_studio
    written = [one for one in studio.prediction_list if one.model_version == record.version]
    assert [one.task for one in written] == record.tasks
    assert set(record.tasks) <= set(TASKS) - audits(place)
    assert {accepted_by(region) for one in written for region in one.result} == {record.version}
    assert run(place, 1, PROMISE) is None, "neither labels nor tasks have changed"
    assert undo(place, 1).versions == (record.version,)
    assert studio.prediction_list == []
    assert PseudoLabelStore.of(place.settings).standing(1) is None


def test_a_watch_without_a_promise_says_so(place: Resources) -> None:
    watch_in_background(place, 1)
    last = place.store.runs(1, "pseudo_label", limit=1)[0]
    assert (last.state, last.reason) == ("skipped", "no promise is in force")
