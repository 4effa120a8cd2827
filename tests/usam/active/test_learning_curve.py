"""Learning curves: what is known of them, what is not, and when to stop."""

from __future__ import annotations

import numpy as np
import pytest

from usam.active.learning_curve import Plan, fit_curve
from usam.errors import SimulationError


def history(rise: float, scale: float, noise: float, seed: int, longest: int = 200) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(0, longest, 20)
    quality = 0.7 - rise * np.exp(-labels / scale)
    return labels, (quality + noise * np.random.default_rng(seed).normal(size=len(labels))).clip(0, 1)


def test_a_curve_that_has_flattened_says_stop() -> None:
    found = fit_curve(*history(0.08, 25.0, 0.003, 0))
    assert found.total_gain.low < 0.08 < found.total_gain.high + 0.01
    assert found.gain(100).high < 0.01
    assert "stop" in found.suggestion(100, worth=0.01)
    needed = found.labels_for(0.9)
    assert needed.low < 25 * np.log(10) < needed.high


def test_a_curve_that_still_rises_says_go_on() -> None:
    found = fit_curve(*history(0.1, 200.0, 0.003, 1))
    truth = 0.1 * (np.exp(-180 / 200) - np.exp(-280 / 200))
    assert found.gain(100).low < truth < found.gain(100).high
    assert "go on" in found.suggestion(100)
    assert found.gain(0).value == 0
    assert found.gain(50).value < found.gain(100).value < found.gain(400).value


def test_a_flat_history_does_not_promise_much() -> None:
    found = fit_curve(*history(0.0, 1.0, 0.003, 2))
    assert found.gain(100).value < 0.003
    assert found.labels == 180


@pytest.mark.parametrize(("rise", "scale"), [(0.0, 50.0), (0.05, 30.0), (0.05, 200.0), (0.1, 80.0)])
def test_the_upper_end_holds_as_often_as_it_says(rise: float, scale: float) -> None:
    truth = rise * (np.exp(-180 / scale) - np.exp(-280 / scale))
    held = [truth <= fit_curve(*history(rise, scale, 0.005, seed)).gain(100).high + 1e-6 for seed in range(25)]
    assert np.mean(held) >= 0.84  # 95 %, less two standard errors of 25 draws


def test_noise_widens_the_interval() -> None:
    quiet, loud = (fit_curve(*history(0.05, 60.0, noise, 3)).gain(100) for noise in (0.001, 0.02))
    assert loud.high - loud.low > 2 * (quiet.high - quiet.low)


def test_a_plan_reads_off_the_usual_answers() -> None:
    plan = Plan.of(fit_curve(*history(0.1, 60.0, 0.003, 4)), "the promise holds", 3)
    said = "\n".join(plan.lines())
    assert "after 180 labels" in said
    assert "next 100 labels" in said
    assert "labels for 90 % of the gain" in said
    assert said.endswith("the promise holds")
    flat = Plan.of(fit_curve(*history(0.0, 60.0, 0.0005, 4)))
    assert "next to nothing to gain" in "\n".join(flat.lines())


def test_the_same_history_gives_the_same_answer() -> None:
    first, again = (fit_curve(*history(0.05, 60.0, 0.005, 5), seed=3).gain(100) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("labels", "quality", "said"),
    [
        ([0, 10], [0.5, 0.6], "history of 3"),
        ([0, 10, 10], [0.5, 0.6, 0.6], "history of 3"),
        ([0, 10, 20], [0.5, 0.6], "a quality for each"),
        ([0, 10, 20], [0.5, 0.6, 1.2], "in \\[0, 1\\]"),
        ([-1, 10, 20], [0.5, 0.6, 0.7], "at least 0"),
        ([0, 10, 20], [0.5, float("nan"), 0.7], "in \\[0, 1\\]"),
    ],
)
def test_histories_that_tell_nothing_are_refused(labels: list[float], quality: list[float], said: str) -> None:
    with pytest.raises(SimulationError, match=said):
        fit_curve(labels, quality)


def test_questions_out_of_range_are_refused() -> None:
    found = fit_curve(*history(0.05, 60.0, 0.005, 6))
    with pytest.raises(SimulationError, match="at least 0"):
        found.gain(-1)
    with pytest.raises(SimulationError, match="share"):
        found.labels_for(1.0)
