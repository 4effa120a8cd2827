"""Rules of showing, chosen by work."""

from __future__ import annotations

import numpy as np
import pytest

from bench.rule_tuning import LabelledProposals, choose_rules, work_left
from usam.errors import TrainingError
from usam.objects.effort import Prices
from usam.predictor.clean_proposals import Layout, ProposalRules


def many_small(count: int = 30) -> LabelledProposals:
    """Thirty cells of an image are wanted, in candidates of a predicted IoU of 0.4; one large one is not."""
    masks = np.zeros((count + 1, 40, 40), bool)
    for index in range(count):
        y, x = divmod(index, 6)
        masks[index, 7 * y : 7 * y + 5, 6 * x : 6 * x + 5] = True
    masks[count, 2:38, 2:38] = True
    overlap = np.vstack([np.eye(count) * 0.9, np.zeros(count)])
    return LabelledProposals(Layout.of(masks), np.r_[np.full(count, 0.4), 0.9], overlap)


def test_rules_for_many_small_objects_are_found() -> None:
    images = [many_small()]
    before = work_left(images, ProposalRules())
    assert before.kept == 0
    rules, work = choose_rules(images)
    assert rules.most > 20
    assert rules.pred_iou_thresh < 0.4 + 1e-9
    assert work.kept == 30
    assert work.deleted == 0
    assert work.seconds(Prices()) < before.seconds(Prices())


def test_nothing_better_leaves_the_rules() -> None:
    empty = LabelledProposals(Layout.of(np.zeros((0, 4, 4), bool)), np.zeros(0), np.zeros((0, 2)))
    base = ProposalRules(most=3)
    assert choose_rules([empty], base)[0] == base
    with pytest.raises(TrainingError, match="labelled image"):
        choose_rules([])
