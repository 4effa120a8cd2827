"""What a retraining says of choosing masks by predicted IoU: by labels that the judged heads have not learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.learning.training import selection_gains
from tests.usam.active.test_mask_selection import batch, knowing_heads
from usam.training.gate import take


def test_each_head_set_is_judged_by_labels_it_has_not_seen() -> None:
    objects: dict[str, Any] = batch(60)
    right, wrong = knowing_heads(1.0), knowing_heads(-1.0)
    first = np.isin(objects["groups"], np.arange(15))
    folds = [(right, take(objects, first)), (right, take(objects, ~first))]
    found = selection_gains("nano-s", wrong, right, objects, None, folds, 0)
    assert found[right.version].value > 0.1
    assert found[right.version].objects == 60
    assert found[right.version].images == 30
    assert found[wrong.version].value == pytest.approx(-0.25, abs=0.06)
    assert found[wrong.version].high < 0


def test_audit_labels_judge_the_candidate_where_there_are_any() -> None:
    train, audit = batch(60), batch(20)
    right = knowing_heads(1.0)
    found = selection_gains("nano-s", None, right, train, audit, [], 0)
    assert found == {right.version: found[right.version]}
    assert found[right.version].objects == 20
    assert selection_gains("nano-s", None, right, train, None, [], 0) == {}
