"""The splits behind the figures on accepted masks keep images apart; what stands beside them is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from bench.risk import Objects, naive_threshold, outcome, outcomes, violations, wilson
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee

PROMISE = RiskGuarantee(0.5, 0.2, 0.9, per_image=1)


def objects(images: int = 200) -> Objects:
    """Two objects an image, half of the images good; the quality tells which, chance does not."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(images), 2)
    good = np.repeat(np.arange(images) % 2 == 0, 2)
    true = np.where(good, 0.9, 0.1)
    ways = {"predicted IoU": (true, np.zeros(len(true)), true), "chance": (rng.random(len(true)), None, true)}
    return Objects(image, ways)


def test_an_image_that_is_drawn_twice_counts_twice_and_keeps_its_masks_together() -> None:
    found = objects(4).rows("predicted IoU", np.array([2, 0, 2]))
    assert list(found.names) == [4, 5, 0, 1, 4, 5]
    assert list(found.images) == [0, 0, 1, 1, 2, 2]
    assert found.image_count == 3


def test_what_tells_good_masks_is_accepted_and_chance_is_not() -> None:
    rng = np.random.default_rng(1)
    told = list(outcomes(objects(), "predicted IoU", PROMISE, rng, 5))
    assert {round(one.failing, 3) for one in told} == {0.0}
    assert np.mean([one.accepted for one in told]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([one.random for one in told]) == pytest.approx(0.5, abs=0.15)
    assert [one.accepted for one in outcomes(objects(), "chance", PROMISE, rng, 5)] == [0.0] * 5


def test_an_image_is_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[object], set[object]]] = []

    def looking(audit: Candidates, pool: Candidates, promise: RiskGuarantee, rng: np.random.Generator) -> object:
        seen.append((set(audit.names), set(pool.names)))
        return outcome(audit, pool, promise, rng)

    monkeypatch.setattr("bench.risk.outcome", looking)
    drawn = np.random.default_rng(0).choice(200, 200)
    list(outcomes(objects(), "predicted IoU", PROMISE, np.random.default_rng(2), 3, drawn))
    assert len(seen) == 3
    assert all(audit and pool and not audit & pool for audit, pool in seen)


def test_the_naive_threshold_is_the_loosest_at_which_the_audits_allow_it() -> None:
    quality, true = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    audit = Candidates(list("abcdef"), list(range(6)), quality, None, true)
    assert naive_threshold(audit, PROMISE) == 0.5
    assert naive_threshold(audit, RiskGuarantee(0.5, 0.1, per_image=1)) == 0.6
    assert naive_threshold(Candidates(["a"], [0], np.ones(1), None, np.zeros(1)), PROMISE) == np.inf


def test_rows_state_the_target_of_risk_control_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.risk.SPLITS", 20)
    rows = violations(objects(), PROMISE)
    assert [row.target for row in rows] == ["<= 0.1", "", ""]
    assert rows[0].value == 0.0
    assert rows[2].value == 1.0
    assert "200 unseen images; something is accepted in 20" in rows[0].note


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(10, 100)
    assert (low, high) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(0, 1000)[0] == 0.0
