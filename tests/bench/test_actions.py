"""The share of the larger model's gain that is kept is what it says, and chance keeps what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from bench.actions import BUDGET, SEEDS, kept_row, random_choice


def test_all_keeps_all_and_chance_keeps_its_share() -> None:
    rng = np.random.default_rng(0)
    gain, images = rng.normal(0.05, 0.1, 3000), np.repeat(np.arange(300), 10).astype(str)
    whole = kept_row("object", "everything", np.ones(3000, bool), gain, gain, images)
    assert whole.value == pytest.approx(1.0)
    drawn = np.mean([random_choice(3000, seed) for seed in range(SEEDS)], axis=0)
    chance = kept_row("object", "random", drawn, gain, gain, images)
    assert chance.value == pytest.approx(BUDGET, abs=0.08)
    best = kept_row("object", "oracle", gain >= np.quantile(gain, 1 - BUDGET), gain, gain, images)
    assert best.value > 1
    assert "at 35% of its cost" in best.note


def test_what_is_gained_everywhere_counts_on_top() -> None:
    gain, images = np.full(40, 0.1), np.arange(40).astype(str)
    none = np.zeros(40, bool)
    assert kept_row("object", "nothing", none, gain, gain, images, base=np.full(40, 0.05)).value == pytest.approx(0.5)
