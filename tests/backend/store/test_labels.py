"""Tasks and annotations are taken over as Label Studio has them, and samples follow their annotation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sql

from backend.errors import StoreError
from backend.label_studio.records import Annotation, Task
from backend.store import Store
from backend.store.records import WorkRow
from tests.backend.store.rows import annotation, sample, score, task


def test_tasks_new_changed_and_gone(store: Store) -> None:
    assert store.record_tasks(1, [task(1), task(2), task(3, annotations=1)]).new == (1, 2, 3)
    store.put_scores(1, [score(1, 0), score(2, 1)])
    changes = store.record_tasks(1, [task(1, "t2"), task(2, "t2", image="b.png")])
    assert (changes.new, changes.changed) == ((), (2,))
    assert [row.task for row in store.ranking(1)] == [1]
    store.remove_tasks(1, [1])
    assert [one.id for one in store.tasks(1)] == [2, 3]
    assert [one.id for one in store.tasks(1, unlabelled=True)] == [2]
    assert store.ranking(1) == []


def test_a_task_stays_unchecked_until_its_annotations_were_compared(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2)])
    assert store.unchecked_tasks(1) == {1, 2}
    store.mark_tasks_synced(1, [1, 2])
    store.record_tasks(1, [task(1), task(2, "t2")])
    assert store.unchecked_tasks(1) == {2}


def test_samples_follow_their_annotation(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2)])
    store.record_annotation(1, annotation(7, 1), [sample(7, 1, "a"), sample(7, 1, "b")], sampled_for="k")
    store.record_annotation(1, annotation(8, 2), [sample(8, 2)], sampled_for="k", reason="one region broken")
    assert [row.region for row in store.samples(1, "nano-s")] == ["a", "b", "r"]
    assert store.samples(1, "another") == []
    store.record_annotation(1, annotation(7, 1, "t2"), [sample(7, 1, "c", "t2")], sampled_for="k")
    assert [row.region for row in store.samples(1, "nano-s")] == ["c", "r"]
    store.delete_annotations(1, [7])
    assert [row.annotation for row in store.samples(1, "nano-s")] == [8]
    assert store.task_of(1, 7) == 1
    assert [one.id for one in store.annotations(1)] == [8]


def test_a_damaged_sample_harms_no_other(store: Store) -> None:
    store.record_annotation(1, annotation(7, 1), [sample(7, 1)], sampled_for="k")
    for number, damage in enumerate(({"iou_token": b"\0"}, {"mask_tokens": b""}, {"targets": "{"}), 8):
        store.record_annotation(1, annotation(number, 1), [sample(number, 1)], sampled_for="k")
        with store._engine.begin() as connection:
            (name,) = damage
            query = sql.text(f"UPDATE samples SET {name} = :value WHERE annotation = :number")
            connection.execute(query, {"value": damage[name], "number": number})
    assert [row.annotation for row in store.samples(1, "nano-s")] == [7]


def test_tokens_come_back_as_half_floats(store: Store) -> None:
    store.record_annotation(1, annotation(7, 1), [sample(7, 1)], sampled_for="k")
    (row,) = store.samples(1, "nano-s")
    assert row.iou_token.dtype == np.float16
    np.testing.assert_array_equal(row.iou_token, sample(7, 1).iou_token)
    np.testing.assert_array_equal(row.mask_tokens, sample(7, 1).mask_tokens)
    assert row.targets == {"iou": [0.5] * 3}


def test_labels_are_new_until_a_retraining_saw_them_and_again_once_changed(store: Store) -> None:
    for number in (7, 8):
        store.record_annotation(1, annotation(number, number), [sample(number, number)], sampled_for="k")
    store.record_annotation(1, annotation(9, 9), [], sampled_for="k", reason="nothing is marked")
    assert store.new_labels(1) == 2
    store.mark_labels_used(1, 5, [7, 8])
    assert store.new_labels(1) == 0
    store.record_annotation(1, annotation(7, 7, "t2"), [sample(7, 7)], sampled_for="k")
    assert store.new_labels(1) == 1


def test_counts_leave_out_what_is_labelled_or_deleted(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2, annotations=1), task(3, annotations=1)])
    for number, on in ((7, 2), (8, 3)):
        store.record_annotation(1, annotation(number, on), [], sampled_for="k")
    store.delete_annotations(1, [8])
    counts = store.counts(1)
    assert (counts.tasks, counts.unlabelled, counts.annotations) == (3, 1, 1)
    assert store.task_count(1) == 3
    assert store.task_count(2) == 0


def test_the_annotations_of_a_removed_task_stay_as_deleted(store: Store) -> None:
    store.record_tasks(1, [task(1)])
    store.record_annotation(1, annotation(7, 1), [sample(7, 1)], sampled_for="k")
    store.remove_tasks(1, [1])
    assert store.annotations(1) == []
    assert [(row.id, row.deleted) for row in store.annotations(1, deleted=True)] == [(7, True)]
    assert store.samples(1, "nano-s") == []
    assert store.task_of(1, 7) == 1


def test_a_skipped_annotation_is_no_new_label(store: Store) -> None:
    store.record_annotation(1, Annotation(7, 1, "t1", [], cancelled=True), [sample(7, 1)], sampled_for="k")
    assert store.new_labels(1) == 0


def test_few_tasks_can_be_asked_for_by_id(store: Store) -> None:
    store.record_tasks(1, [task(n) for n in (3, 1, 2)])
    assert [row.id for row in store.tasks(1)] == [1, 2, 3]
    assert [row.id for row in store.tasks(1, only=[3, 1, 9])] == [1, 3]


HOSTILE = [True, 2**63 - 1, 10**12, 2**63, -1, 1.5, "3", None, [1]]


@pytest.mark.parametrize("count", HOSTILE)
def test_no_number_that_a_task_tells_stops_what_is_counted_of_all(store: Store, count: Any) -> None:
    """PostgreSQL takes `true` for no number, and refuses a sum that is too large: one task stopped every sync."""
    told = {"total_annotations": count, "cancelled_annotations": count, "total_predictions": count}
    store.record_tasks(1, [Task.read({"id": 1, "data": {}, **told}), Task.read({"id": 2, "data": {}})])
    seen = Annotation.read({"id": 5, "completed_by": count, "lead_time": count}, 1)
    work = WorkRow(5, 1, "v", 0, 0, 0, 0, 0, 0.0, 0.0, seen.annotator or 0)
    store.record_annotation(1, seen, [], sampled_for="k", work=work)
    assert 2 not in store.miscounted_tasks(1, "k")
    assert store.counts(1).tasks == 2
    assert store.overviews()[0].tasks == 2
    assert store.unranked(1)[0] >= 1


@pytest.mark.parametrize("what", ["a\0b", "\ud800", 10**30])
def test_what_no_store_can_hold_is_not_found_in_one_either(store: Store, what: Any) -> None:
    """A look-up raised the database's own errors, which nobody expects of it."""
    looks: list[Callable[[], object]] = [lambda: store.last_run(what, "sync"), lambda: store.tasks(what)]
    if isinstance(what, str):
        looks = [lambda: store.last_run(1, what), lambda: store.selection_gain(1, what)]
    for look in looks:
        with suppress(StoreError):
            assert not look()


def test_numbers_of_numpy_are_numbers_of_json(store: Store) -> None:
    run = store.start_run(1, "sync")
    store.finish_run(run, "done", "", {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x")})
    assert store.runs(1)[0].details == {"a": 0.5, "b": [0, 1], "c": "x"}
