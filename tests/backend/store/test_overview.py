"""What screens show, counted: all projects at once, and the head of a queue by reason and audit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from backend.store import Store
from backend.store.overview import UNUSABLE, kind_of
from backend.store.records import ProposalRow, ScoreRow
from tests.backend.store.rows import annotation, sample, score, task


def put(store: Store, project: int, rows: Sequence[tuple[int, str, bool, float]]) -> None:
    store.join(project)
    store.record_tasks(project, [task(number) for number, *_ in rows])
    store.put_scores(
        project,
        [
            ScoreRow(number, "v", worth, 0.5, place, audit, why)
            for place, (number, why, audit, worth) in enumerate(rows)
        ],
    )


def test_every_project_is_counted_by_itself(store: Store) -> None:
    put(store, 3, [(1, "a gap 0.10", False, 0.1), (2, "no such file", False, UNUSABLE)])
    store.record_tasks(3, [task(9, annotations=1), task(2)])
    store.record_annotation(3, annotation(5, 9), [sample(5, 9)], sampled_for="k")
    store.record_annotation(3, annotation(6, 9), [], sampled_for="k", reason="region r: a second outline")
    store.record_annotation(3, annotation(7, 9), [], sampled_for="k", reason="accepted by nano-m+x.pseudo-1")
    store.record_annotation(3, annotation(8, 9), [], sampled_for="k", reason="nothing is marked")
    store.set_served(3, "v")
    store.join(4)
    _, third, fourth = store.overviews()
    assert (third.project, third.tasks, third.unlabelled, third.annotations, third.new_labels) == (3, 3, 2, 4, 1)
    assert (third.served, third.unusable, third.unusable_reason) == ("v", 1, "no such file")
    assert (third.set_aside, third.set_aside_reason) == (1, "region r: a second outline")
    assert (fourth.project, fourth.tasks, fourth.unlabelled, fourth.unusable) == (4, 0, 0, 0)
    assert fourth.runs == {}
    assert third.new_labels == store.new_labels(3)


def test_of_each_job_the_newest_run_is_shown(store: Store) -> None:
    store.join(3)
    store.finish_run(store.start_run(3, "retrain"), "failed", "old")
    store.finish_run(store.start_run(3, "retrain"), "done", "new")
    store.start_run(3, "score_pool", total=4)
    _, known = store.overviews()
    assert {job: run.state for job, run in known.runs.items()} == {"retrain": "done", "score_pool": "running"}
    assert known.runs["retrain"].reason == "new"


def test_a_run_that_found_nothing_to_do_hides_no_result(store: Store) -> None:
    store.finish_run(store.start_run(3, "retrain"), "done", "better")
    store.finish_run(store.start_run(3, "retrain"), "skipped", "nothing new")
    store.join(3)
    (known,) = [one for one in store.overviews() if one.project == 3]
    assert (known.runs["retrain"].state, known.ended["retrain"].reason) == ("skipped", "better")


def test_a_page_of_the_queue_leaves_out_what_is_finished(store: Store) -> None:
    put(store, 3, [(number, f"why {number}", number == 2, 1.0) for number in (1, 2, 3, 4)])
    store.put_proposal(3, ProposalRow(2, "key", b"x", {}))
    store.record_tasks(3, [task(1, annotations=1)])
    rows, total = store.ranked_tasks(3, start=0, count=2)
    assert ([row.task for row in rows], total) == ([2, 3], 3)
    assert (rows[0].place, rows[0].is_audit, rows[0].proposals) == (1, True, "key")
    assert rows[1].proposals == ""
    assert rows[0].data == {"image": "2-a.png"}
    assert [row.task for row in store.ranked_tasks(3, start=2, count=2)[0]] == [4]
    assert [row.task for row in store.ranked_tasks(3, audit=True)[0]] == [2]
    assert [row.task for row in store.ranked_tasks(3, audit=False)[0]] == [3, 4]
    assert store.ranked_tasks(7) == ([], 0)


def test_reasons_are_of_a_kind_whatever_their_numbers(store: Store) -> None:
    put(
        store,
        3,
        [
            (1, "task gap 0.12 on its 3 most doubtful of 9 objects", False, 0.2),
            (2, "task gap -0.01 on its 1 most doubtful of 1 objects", False, 0.1),
            (3, "nothing found in it", False, 0.0),
            (4, "100% sure_thing", False, 0.0),
            (5, "no such file 5", False, UNUSABLE),
        ],
    )
    kinds = {kind.name: kind for kind in store.reason_kinds(3)}
    assert next((kind.name, kind.count) for kind in store.reason_kinds(3)) == ("task gap", 2)
    assert "no such file" not in kinds
    rows, total = store.ranked_tasks(3, patterns=kinds["task gap"].patterns)
    assert ([row.task for row in rows], total) == ([1, 2], 2)
    assert [row.task for row in store.ranked_tasks(3, unusable=True)[0]] == [5]
    found = store.ranked_tasks(3, patterns=kinds["% sure_thing"].patterns)[0]
    assert [row.task for row in found] == [4], "signs that LIKE reads are taken as they are"


@pytest.mark.parametrize(
    ("reason", "name"),
    [("", "no reason"), ("samscore 0.5 on its 1", "samscore"), ("12", "no reason"), ("x" * 90, "x" * 60)],
)
def test_a_kind_has_a_name_for_people(reason: str, name: str) -> None:
    assert kind_of(reason)[0] == name


def test_a_ranking_of_tasks_that_are_gone_shows_nothing(store: Store) -> None:
    store.join(3)
    store.put_scores(3, [score(1, 0)])
    assert store.ranked_tasks(3) == ([], 0)
    assert store.reason_kinds(3) == []


def test_a_picture_depends_on_data_proposals_and_ranking(store: Store) -> None:
    put(store, 3, [(1, "why", False, 0.1)])
    store.record_tasks(3, [task(2)])
    alone, first = store.picture_key(3, 2), store.picture_key(3, 1)
    assert alone is not None
    assert alone.endswith("||")
    assert first is not None
    assert first.endswith("||v")
    store.put_proposal(3, ProposalRow(1, "key", b"x", {}))
    assert store.picture_key(3, 1) == first.replace("||", "|key|")
    assert store.picture_key(3, 99) is None


def test_samples_are_read_of_the_tasks_that_are_asked_for_alone(store: Store) -> None:
    store.join(3)
    store.record_tasks(3, [task(9, annotations=1), task(8, annotations=1), task(7)])
    for number in (8, 9):
        store.record_annotation(3, annotation(number, number), [sample(number, number)], sampled_for="k")
    assert store.sampled_tasks(3, "nano-s") == [8, 9]
    assert store.sampled_tasks(3, "other") == []
    assert [row.task for row in store.samples_of(3, "nano-s", [9])] == [9]
    assert store.samples_of(3, "nano-s", []) == []
    assert store.newest_sample(3, "nano-s") == (2, "t1")
    assert store.newest_sample(3, "other") == (0, "")
    assert store.open_task_ids(3) == [7]
