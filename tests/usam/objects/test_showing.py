"""What is shown before and after a project has learnt what it wants."""

from __future__ import annotations

import numpy as np

from usam.objects.showing import choose_rows
from usam.predictor.clean_proposals import Layout


def layout() -> Layout:
    """A whole, a part of it, and another object beside."""
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:10, 2:10], masks[1, 3:7, 3:7], masks[2, 12:18, 12:18] = True, True, True
    return Layout.of(masks)


def test_before_learning_the_better_outline_of_nested_masks_stays() -> None:
    shown, _ = choose_rows(layout(), np.array([0.9, 0.8, 0.4]), np.full(3, np.nan), 0.0)
    assert shown.tolist() == [0]


def test_after_learning_the_likelier_one_stays_whatever_its_outline() -> None:
    shown, distinct = choose_rows(layout(), np.array([0.9, 0.6, 0.45]), np.array([0.2, 0.9, 0.7]), 0.5)
    assert shown.tolist() == [1, 2]
    assert distinct.tolist() == [1, 2]


def test_a_poor_outline_is_not_shown_however_wanted() -> None:
    shown, _ = choose_rows(layout(), np.array([0.9, 0.6, 0.3]), np.array([0.2, 0.6, 0.99]), 0.5)
    assert shown.tolist() == [1]


def test_no_candidates_show_nothing() -> None:
    empty = Layout.of(np.zeros((0, 4, 4), bool))
    assert choose_rows(empty, np.zeros(0), np.zeros(0), 0.5)[0].tolist() == []


def test_a_thing_seen_from_close_by_is_shown_where_nothing_else_is() -> None:
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 6:, 2:20], masks[1, 2:4, 2:4] = True, True  # all of the bottom, most of the right side
    weak, good = np.array([0.9, 0.2]), np.array([0.9, 0.6])
    nothing = np.full(2, np.nan)
    assert choose_rows(Layout.of(masks), weak, nothing, 0.0)[0].tolist() == [0]
    assert choose_rows(Layout.of(masks), good, nothing, 0.0)[0].tolist() == [1]
