"""What a person's answer about an object and about an image is worth."""

from __future__ import annotations

import numpy as np
import pytest

from usam.active.acquisition import (
    STRATEGIES,
    expected_error,
    expected_gap,
    image_acquisition,
    image_score,
    object_scores,
    random_acquisition,
)
from usam.errors import HeadsError, UsamError

SCORES = {
    "iou_nano_s": np.array([0.2, 0.9, 0.5]),
    "iou_nano_m": np.array([0.3, 0.8, 0.6]),
    "iou_unsupervised": np.array([0.1, 0.1, 0.1]),
    "task_gap": np.array([0.1, 0.3, -0.1]),
    "model_gap": np.array([0.2, -0.1, 0.4]),
    "prompt_gap": np.array([0.0, 0.5, 0.2]),
    "h_std": np.array([0.7, 0.1, 0.4]),
}
SAMSCORE = np.array([0.6, 0.5, 0.95])


@pytest.mark.parametrize(
    ("strategy", "ranking"),
    [
        ("task", [1, 0, 2]),
        ("epistemic", [2, 0, 1]),
        ("task+epistemic", [0, 2, 1]),
        ("prompt", [1, 2, 0]),
        ("predicted-iou", [0, 2, 1]),
        ("entropy", [0, 2, 1]),
        ("samscore", [1, 0, 2]),
    ],
)
def test_strategies_ask_about_the_object_they_name(strategy: str, ranking: list[int]) -> None:
    # objects 0 and 2 tie at 0.3 in task+epistemic: the order given decides
    scores = np.round(object_scores(SCORES, SAMSCORE, strategy), 9)
    assert np.argsort(-scores, kind="stable").tolist() == ranking


def test_quality_head_can_be_named() -> None:
    assert object_scores(SCORES, SAMSCORE, "predicted-iou", quality="iou_nano_s") == pytest.approx([0.8, 0.1, 0.5])


def test_random_strategy_needs_a_generator_and_repeats_with_it() -> None:
    draws = [object_scores(SCORES, SAMSCORE, "random", rng=np.random.default_rng(4)) for _ in range(2)]
    assert (draws[0] == draws[1]).all()
    with pytest.raises(UsamError, match="generator"):
        object_scores(SCORES, SAMSCORE, "random")


def test_bad_requests_say_what_to_do() -> None:
    with pytest.raises(UsamError, match=r"task\+epistemic"):
        object_scores(SCORES, SAMSCORE, "entropies")
    with pytest.raises(HeadsError, match="task_gap"):
        object_scores({"iou_large": SAMSCORE}, SAMSCORE, "task")
    with pytest.raises(UsamError, match="2 values"):
        object_scores(SCORES, SAMSCORE[:2], "task")
    assert len(STRATEGIES) == 9


@pytest.mark.parametrize(("rule", "expected"), [("top-mean", 0.8), ("max", 0.9), ("mean", 0.65), ("sum", 2.6)])
def test_image_rules(rule: str, expected: float) -> None:
    objects = np.array([0.2, 0.9, np.nan, 0.7, 0.8])
    assert image_score(objects, rule) == pytest.approx(expected)


def test_image_without_objects_and_bad_rules() -> None:
    assert image_score(np.array([]), empty=0.4) == 0.4
    with pytest.raises(UsamError, match="top-mean"):
        image_score(np.ones(2), "median")
    with pytest.raises(UsamError, match="at least 1"):
        image_score(np.ones(2), top=0)


def test_an_image_is_not_asked_first_for_its_number_of_objects() -> None:
    few, many = (expected_error(np.full(count, 0.8), uncovered=0.5) for count in (3, 30))
    assert few == pytest.approx(many)
    assert expected_error(np.full(3, 0.4), uncovered=0.5) > expected_error(np.full(30, 0.8), uncovered=0.5)


def test_an_image_in_which_nothing_was_found_is_asked_first() -> None:
    empty = expected_error(np.zeros(0), uncovered=1.0)
    assert empty > expected_error(np.array([0.1, 0.2]), uncovered=1.0)
    assert empty > expected_error(np.array([0.9]), uncovered=0.2)


def test_unwanted_objects_count_little_and_doubtful_labels_count() -> None:
    iou = np.array([0.9, 0.3])
    assert expected_error(iou, wanted=np.array([1.0, 0.0]), uncovered=0) == pytest.approx(0.1)
    assert expected_error(iou, wanted=np.array([1.0, np.nan]), uncovered=0) == expected_error(iou, uncovered=0)
    sure, unsure = (expected_error(iou, label=np.full(2, p)) for p in (1.0, 0.5))
    assert unsure > sure
    with pytest.raises(UsamError, match="2 probabilities"):
        expected_error(iou, wanted=np.ones(3))


def test_gaps_are_summed_over_what_is_expected() -> None:
    assert expected_gap(np.array([0.2, -0.3, 0.4]), np.array([1.0, 1.0, 0.5])) == pytest.approx(0.4)
    assert expected_gap(np.array([0.2]), np.array([1.0]), np.array([0.0])) == 0
    assert expected_gap(np.zeros(0), np.zeros(0)) == 0


def test_random_is_uniform_over_tasks() -> None:
    draws = random_acquisition(range(2000), seed=1)
    assert abs(np.mean(draws) - 0.5) < 0.03
    assert (draws == random_acquisition(range(2000), seed=1)).all()
    assert abs(np.corrcoef(draws, np.arange(2000))[0, 1]) < 0.06


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "random"])
def test_an_images_acquisition_counts_what_is_expected_there(strategy: str) -> None:
    scores = SCORES | {"entropy": SCORES["task_gap"]}
    iou = np.array([0.9, 0.5, 0.1])
    found = image_acquisition(strategy, scores, SAMSCORE, iou, np.array([0]), quality="iou_nano_m", uncovered=0.5)
    if strategy == "expected-error":
        hidden = np.array([True, False, False])
        assert found == pytest.approx(expected_error(iou, shown=hidden, uncovered=0.5))
    else:
        worth = object_scores(scores, SAMSCORE, strategy, quality="iou_nano_m")
        assert found == pytest.approx(expected_gap(worth, iou))
        alone = image_acquisition(
            strategy, scores, SAMSCORE, iou, np.array([1]), rule="max", quality="iou_nano_m", uncovered=0.5
        )
        assert alone == pytest.approx(worth[1]), "any other rule takes what is shown"
