"""Few and clean proposals."""

from __future__ import annotations

import numpy as np
import pytest

from usam.errors import PromptError
from usam.predictor.clean_proposals import Layout, ProposalRules, clean_proposals


def boxes(*corners: tuple[int, int, int, int]) -> Layout:
    """Masks of 20 x 20 with boxes y0, x0, y1, x1."""
    masks = np.zeros((len(corners), 20, 20), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return Layout.of(masks)


WHOLE, SKY, THING, PART, OTHER, EMPTY = (
    (0, 0, 20, 20),
    (0, 0, 9, 20),
    (10, 2, 18, 10),
    (12, 4, 14, 8),
    (12, 12, 18, 18),
    (0, 0, 0, 0),
)


def test_whole_images_background_parts_and_empty_masks_go() -> None:
    layout = boxes(WHOLE, SKY, THING, PART, OTHER, EMPTY)
    rank = np.array([0.99, 0.95, 0.9, 0.8, 0.7, 0.6])
    assert clean_proposals(layout, rank).tolist() == [2, 4]
    nothing_but_copies = ProposalRules(nested=1.0, largest=1.0, border=1.0, most=20)
    assert clean_proposals(layout, rank, nothing_but_copies).tolist() == [0, 1, 2, 3, 4]


def test_what_touches_more_of_the_sides_than_an_object_of_its_size_is_background() -> None:
    strip, corner, cut_off = (0, 0, 4, 20), (14, 14, 20, 20), (8, 0, 12, 5)
    assert clean_proposals(boxes(strip, corner, cut_off), np.array([0.9, 0.8, 0.7])).tolist() == [1, 2]


def test_a_better_ranked_part_hides_its_whole() -> None:
    assert clean_proposals(boxes(THING, PART), np.array([0.6, 0.9])).tolist() == [1]


def test_copies_the_weak_and_the_many_go() -> None:
    layout = boxes(THING, (10, 2, 18, 9), OTHER, (2, 2, 6, 6))
    assert clean_proposals(layout, np.array([0.9, 0.8, 0.7, 0.4])).tolist() == [0, 2]
    assert clean_proposals(layout, np.array([0.9, 0.8, 0.7, 0.6]), ProposalRules(most=1)).tolist() == [0]
    band = ProposalRules(smallest=0.05, largest=0.12)
    assert clean_proposals(layout, np.full(4, 0.9), band).tolist() == [2]


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(PromptError, match="shares"):
        ProposalRules(nms_iou=2)
    with pytest.raises(PromptError, match="ranks"):
        clean_proposals(boxes(THING), np.zeros(2))
    assert not len(clean_proposals(boxes(), np.zeros(0)))
