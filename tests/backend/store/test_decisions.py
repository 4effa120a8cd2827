"""What was decided stays, whatever becomes of the runs that decided it."""

from __future__ import annotations

import math

import pytest

from backend.store import Store
from usam.active.refinement import Gain
from usam.training.gate import Verdict

GAIN = Gain(0.02, 0.01, 0.03, 40, 12)
NOT_MEASURED = Gain(math.nan, math.nan, math.nan, 0, 0)


def test_the_gain_of_a_head_set_is_the_one_measured_last(store: Store) -> None:
    assert store.selection_gain(1, "v1") is None
    store.put_selection_gains(1, 5, {"v1": NOT_MEASURED, "v2": GAIN})
    first = store.selection_gain(1, "v1")
    assert first is not None
    assert math.isnan(first.value)
    store.put_selection_gains(1, 6, {"v1": GAIN})
    assert store.selection_gain(1, "v1") == store.selection_gain(1, "v2") == GAIN
    assert store.selection_gain(2, "v1") is None


def test_an_action_that_is_not_reported_keeps_its_last_report(store: Store) -> None:
    store.put_refinements(1, 3, {"larger": {"suspended": True, "budget": 0.2}, "alternatives": {"budget": 0.1}})
    store.put_refinements(1, 4, {"alternatives": {"budget": 0.3}})
    states = store.refinements(1)
    assert list(states) == ["alternatives", "larger"]
    assert (states["larger"].run, states["larger"].suspended) == (3, True)
    assert (states["alternatives"].run, states["alternatives"].budget) == (4, 0.3)
    assert store.refinements(2) == {}


def test_a_suspension_outlives_the_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.store.runs.KEEP_RUNS", 1)
    run = store.start_run(1, "score_pool")
    store.put_refinements(1, run, {"larger": {"suspended": True}})
    for _ in range(4):
        store.start_run(1, "score_pool")
    assert run not in [row.id for row in store.runs(1)]
    assert store.refinements(1)["larger"].suspended


def test_verdicts_are_given_newest_first_and_one_for_each_run(store: Store) -> None:
    nothing = Verdict(False, "nothing new to judge by", 0, 0, math.nan, math.nan, 0.0)
    better = Verdict(True, "audit", 40, 12, 0.05, 0.03, 0.99)
    store.put_verdict(1, 4, "c4", nothing)
    store.put_verdict(1, 7, "c7", nothing)
    store.put_verdict(1, 7, "c7", better)
    newest, oldest = store.verdicts(1)
    assert (newest.run, newest.candidate, newest.promote, newest.candidate_error) == (7, "c7", True, 0.03)
    assert (oldest.run, oldest.promote) == (4, False)
    assert math.isnan(oldest.champion_error)
    assert [row.run for row in store.verdicts(1, limit=1)] == [7]
