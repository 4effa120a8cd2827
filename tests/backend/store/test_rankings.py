"""What the model said of each task, and the order that came of it."""

from __future__ import annotations

from backend.store import Store
from backend.store.records import ProposalRow
from tests.backend.store.rows import score, task


def test_a_ranking_replaces_the_one_before(store: Store) -> None:
    store.put_scores(1, [score(n, n) for n in range(700)])
    store.put_scores(1, [score(5, 1), score(4, 0)])
    assert [(row.task, row.place) for row in store.ranking(1)] == [(4, 0), (5, 1)]
    assert store.ranking(1, 1)[0].reason == "why"


def test_proposals_are_kept_by_key(store: Store) -> None:
    store.put_proposal(1, ProposalRow(4, "k1", b"abc", {"0": {"kind": "x"}}))
    assert store.proposal_rows(1, [4])[4] == ProposalRow(4, "k1", b"abc", {"0": {"kind": "x"}})
    store.put_proposal(1, ProposalRow(4, "k2", b"", {}, "broken"))
    assert store.proposal_keys(1) == {4: "k2"}


def test_a_task_is_unreadable_until_the_model_could_be_asked_about_it(store: Store) -> None:
    store.put_proposal(1, ProposalRow(4, "k1", b"", {}, "no such file"))
    store.put_proposal(1, ProposalRow(5, "k1", b"abc", {}))
    assert store.unreadable(1) == {4: "no such file"}
    store.put_proposal(1, ProposalRow(4, "k1", b"abc", {}))
    assert store.unreadable(1) == {}


def test_what_one_project_keeps_is_not_found_under_another(store: Store) -> None:
    store.put_proposal(1, ProposalRow(4, "k1", b"abc", {}))
    store.put_scores(1, [score(4, 0)])
    store.put_scores(2, [score(4, 0), score(5, 1)])
    store.put_scores(2, [])
    assert store.proposal_rows(2, [4]) == {}
    assert store.proposal_rows(1, [4, 5]).keys() == {4}
    assert [row.task for row in store.ranking(1)] == [4]


def test_tasks_without_a_place_are_counted_among_those_that_are_open(store: Store) -> None:
    store.record_tasks(1, [task(1), task(2), task(3), task(4, annotations=1)])
    store.put_scores(1, [score(1, 0), score(4, 1)])
    assert store.unranked(1) == (3, 2)
    assert store.ranked_among(1, [1, 2]) == {1}
    assert store.proposal_keys(1, [9]) == {}
