"""Work in a task, and what is worth showing."""

from __future__ import annotations

import numpy as np
import pytest

from usam.errors import TrainingError
from usam.objects.effort import Prices, Work, choose_threshold, count_work, match_objects, worthwhile


def test_work_is_counted_by_what_a_person_does() -> None:
    work = count_work(
        partner=np.array([0, 1, 2, -1, -1]),
        iou=np.array([0.9, 0.9, 0.6, 0.0, 0.0]),
        right_label=np.array([True, False, False, True, True]),
        objects=4,
    )
    assert work == Work(kept=1, deleted=2, relabelled=1, corrected=1, added=1)
    assert work.shown == 5
    assert work.actions == 5
    prices = Prices(look=1, delete=2, relabel=3, correct=4, add=10)
    assert work.seconds(prices) == 5 * 1 + 2 * 2 + 3 + 4 + 10
    assert (work + Work(kept=2)).kept == 3


def test_the_threshold_follows_the_prices() -> None:
    assert worthwhile(Prices(look=0, delete=4, add=12)) == pytest.approx(0.25)
    probability = np.linspace(0.99, 0.0, 100)
    wanted = np.arange(100) < 30
    wanted[[40, 60, 80]] = True
    prices = Prices(look=0, delete=1, add=100)
    dear = choose_threshold(probability, wanted, prices, least_recall=0, least_precision=0)
    cheap = choose_threshold(probability, wanted, Prices(look=0, delete=10, add=1), least_recall=0)
    assert dear.value < cheap.value
    assert dear.recall == 1
    assert cheap.precision == 1


def test_recall_is_kept_where_half_of_what_is_shown_is_wanted() -> None:
    probability, wanted = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, False, True, True])
    prices = Prices(look=0, delete=100, add=1)
    threshold = choose_threshold(probability, wanted, prices, least_recall=0.8)
    assert threshold.recall == 1
    assert threshold.value < 0.5


def test_recall_gives_way_where_more_would_be_deleted_than_kept() -> None:
    probability = np.linspace(0.99, 0.0, 100)
    wanted = np.zeros(100, bool)
    wanted[[0, 1, 3, 50, 90]] = True
    prices = Prices(look=0, delete=1, add=1000)
    threshold = choose_threshold(probability, wanted, prices, least_recall=0.8)
    assert (threshold.precision, threshold.recall) == (0.75, 0.6)
    whatever_it_costs = choose_threshold(probability, wanted, prices, least_recall=0.8, least_precision=0)
    assert whatever_it_costs.recall == 1


def test_the_nearest_is_taken_where_no_threshold_shows_enough_wanted() -> None:
    """Not the least work: where drawing costs much, that would show everything."""
    probability, wanted = np.linspace(0.9, 0.2, 8), np.isin(np.arange(8), [1, 7])
    threshold = choose_threshold(probability, wanted, Prices.by_hand())
    assert (threshold.precision, threshold.recall) == (0.5, 0.5)


def test_what_few_objects_say_is_not_believed_to_the_last() -> None:
    """13 of the first 15 are wanted, and 9 of the first 9: with two more for nothing only the latter is over 0.8."""
    probability, wanted = np.linspace(0.95, 0.05, 19), np.arange(19) < 9
    wanted[11:15] = True
    assert choose_threshold(probability, wanted, least_precision=0.8).precision == 1.0
    assert choose_threshold(probability, wanted, least_precision=0.75).recall == 1.0


def test_equal_probabilities_are_shown_together() -> None:
    threshold = choose_threshold(np.full(4, 0.5), np.array([True, False, True, False]))
    assert threshold.recall == 1
    assert threshold.precision == 0.5


def test_nothing_wanted_leaves_it_to_the_prices() -> None:
    assert choose_threshold(np.array([0.3]), np.array([False])).value == worthwhile(Prices())
    with pytest.raises(TrainingError, match="one size"):
        choose_threshold(np.zeros(2), np.zeros(3, bool))
    with pytest.raises(TrainingError, match="prices"):
        Prices(add=0)


def test_objects_are_matched_one_to_one() -> None:
    overlap = np.array([[0.9, 0.6], [0.8, 0.0], [0.55, 0.7]])
    assert match_objects(overlap).tolist() == [0, -1, 1]
    assert not len(match_objects(np.zeros((0, 3))))
