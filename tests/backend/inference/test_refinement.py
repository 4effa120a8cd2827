"""The larger model's mask is kept unless it is clearly worse, within what a project may spend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.inference.model import selected
from backend.inference.refinement import (
    Refinement,
    RefinementBudget,
    RefinementStats,
    budget_of,
    other_readings,
    refine_by_larger,
)
from backend.inference.scheduler import finish
from backend.metrics.service import Metrics
from backend.settings import Settings
from tests.factories import FakeModel

OPEN = {"larger_model": "nano-m", "larger_budget": 1.0, "budget_warm_up": 1}


def settings(**more: Any) -> Settings:
    return Settings(**{"model": "nano-s", "larger_margin": 0.02, **OPEN, **more})


class Larger:
    """Predicts these IoUs of its masks, one after the other; those of `empty` show nothing."""

    name = "nano-m"

    def __init__(self, *ious: float, empty: frozenset[int] = frozenset()) -> None:
        self.ious, self.empty, self.sizes = list(ious), empty, [0][:0]

    def decode(self, embedding: object, prompts: Any) -> Any:
        masks = selected(FakeModel().outputs(None, prompts), None, "nano-m", "samscore")[0]
        start = sum(self.sizes)
        self.sizes.append(len(prompts))
        masks.iou[:] = self.ious[start : start + len(prompts)]
        for k in range(len(prompts)):
            if start + k in self.empty:
                masks.logits[k] = -1
        return masks


def refined(larger: Larger, before: list[float], **more: Any) -> list[Refinement]:
    model, nothing, prompts = larger, object(), [object()] * len(before)
    steps: Any = refine_by_larger(model, nothing, prompts, before, settings(**more))  # type: ignore[arg-type]
    result: list[Refinement] = finish(steps)
    return result


def test_a_larger_mask_is_kept_unless_it_is_empty_or_clearly_worse() -> None:
    rows = refined(Larger(0.9, 0.79, 0.7, 0.9, empty=frozenset({3})), [0.8, 0.8, 0.8, 0.8])
    assert [row.kept for row in rows] == [True, True, False, False]
    assert [row.gain for row in rows] == pytest.approx([0.1, -0.01, -0.1, 0.1], abs=1e-6)
    assert {row.checkpoint for row in rows} == {"nano-m"}


def test_the_larger_model_works_in_steps_and_keeps_the_order() -> None:
    larger = Larger(0.1, 0.2, 0.3, 0.4, 0.5)
    rows = refined(larger, [0.0] * 5, points_per_batch=2)
    assert larger.sizes == [2, 2, 1]
    assert [row.iou for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_another_reading_is_the_best_mask_that_is_not_shown() -> None:
    model: Any = FakeModel()
    embedding: Any = object()
    prompts: Any = [1, 2]
    rows = other_readings(model, embedding, prompts, [3, 1], None, "predicted-iou")
    assert [row.iou for row in rows] == pytest.approx([0.7, 0.8])


def gaps(*values: float) -> Any:
    return SimpleNamespace(scores={"model_gap": np.array(values, np.float32)})


def test_nobody_is_admitted_without_a_larger_model_a_budget_or_a_gap() -> None:
    assert budget_of(settings(larger_model=""), "larger") == 0
    assert budget_of(settings(alternatives_budget=0.3), "alternatives") == 0.3
    for closed in (settings(larger_model=""), settings(larger_budget=0.0)):
        assert RefinementBudget(closed, Metrics()).admit(gaps(0.5, 0.5), 1) == []
    unknown: Any = SimpleNamespace(scores={})
    assert RefinementBudget(settings(), Metrics()).admit(unknown, 1) == []


def test_a_suspended_project_is_left_alone_and_others_are_not() -> None:
    budget = RefinementBudget(settings(), Metrics(), {1: frozenset({"larger"})})
    assert budget.admit(gaps(0.3), 1) == []
    assert not budget.would_admit(gaps(0.3), 1)
    assert budget.admit(gaps(0.3), 2) == [0]


def test_a_project_spends_its_own_budget_and_never_more() -> None:
    budget = RefinementBudget(settings(larger_budget=0.25), Metrics())
    admitted = budget.admit(gaps(*np.random.default_rng(0).uniform(0.05, 0.4, 200)), 1)
    assert 20 < len(admitted) <= 50
    assert budget.allowance(1).seen == 200
    assert budget.allowance(2).seen == 0


def test_a_gap_below_the_least_one_that_is_set_is_never_acted_on() -> None:
    budget = RefinementBudget(settings(act_gap_above=0.2), Metrics())
    assert budget.admit(gaps(0.1, 0.3, -0.1, 0.15), 1) == [1]


def test_asking_whether_one_would_be_admitted_spends_nothing() -> None:
    budget = RefinementBudget(settings(), Metrics())
    budget.admit(gaps(0.3), 1)
    assert budget.would_admit(gaps(0.1, 0.4), 1)
    assert budget.allowance(1).seen == 1


def test_the_predicted_gain_is_the_mean_of_the_masks_that_were_kept() -> None:
    stats = RefinementStats()
    assert stats.figures()["predicted_gain"] == 0.0
    for gain, kept in ((0.1, True), (0.3, True), (-0.5, False)):
        row = Refinement(np.zeros((2, 2), np.float32), 0.5, 0.5, {}, "nano-m", gain, seconds=0.5)
        stats.add(row, kept=kept)
    assert stats.figures() == {"acted": 3, "kept": 2, "predicted_gain": 0.2, "seconds": 1.5}


def test_what_was_done_is_counted() -> None:
    metrics = Metrics()
    rows = [Refinement(np.zeros((2, 2), np.float32), 0.5, 0.5, {}, "m", 0.1, kept, 2.0) for kept in (True, False)]
    RefinementBudget(settings(), metrics).record(rows)
    value = metrics.registry.get_sample_value
    assert value("usam_action_taken_total", {"action": "larger"}) == 2
    assert value("usam_action_kept_total", {"action": "larger"}) == 1
    assert value("usam_action_seconds_total", {"action": "larger"}) == 4
    assert value("usam_action_predicted_gain", {"action": "larger"}) == pytest.approx(0.1)
