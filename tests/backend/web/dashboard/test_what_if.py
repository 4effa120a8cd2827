"""What would be accepted: a share where audits bear it out, a number of audits where they do not yet."""

from __future__ import annotations

import numpy as np
import pytest

from backend.web.dashboard.what_if import Outcome, outcome_of, table_of, wish_of, within
from usam.pseudo_labels.calibration import Candidates


def audits(count: int, off: float = 0.0) -> Candidates:
    predicted = np.random.default_rng(0).uniform(0.4, 1, count)
    names = [str(number) for number in range(count)]
    return Candidates(names, names, predicted, true_iou=np.clip(predicted - off, 0, 1))


def test_more_is_accepted_the_less_is_asked_for() -> None:
    audit = audits(400)
    easy, hard = outcome_of(audit, 0.6, 0.2), outcome_of(audit, 0.7, 0.1)
    assert easy.share is not None
    assert hard.share is not None
    assert easy.share > hard.share > 0
    assert "could be accepted now" in easy.line


def test_few_audits_ask_for_more_and_bad_masks_for_something_else() -> None:
    few = outcome_of(audits(12), 0.8, 0.05)
    assert few.share is None
    assert few.audits
    assert f"{few.audits:,} more audit tasks" in few.line
    hopeless = Outcome(0.9, 0.05, None, None)
    assert "lower IoU" in hopeless.line
    assert hopeless.short == "not with these masks"
    assert outcome_of(audits(400, off=0.5), 0.9, 0.05).share is None


def test_a_table_has_a_row_for_each_risk() -> None:
    table = table_of(audits(60))
    assert [risk for risk, _ in table] == [0.05, 0.1, 0.2]
    assert all([one.iou for one in row] == [0.7, 0.8, 0.9] for _, row in table)


@pytest.mark.parametrize("text", ["", "x", "nan", "1e999999999", "-inf"])
def test_what_is_no_number_is_the_usual_wish_or_the_nearest(text: str) -> None:
    assert 0.5 <= within(text, 0.8, 0.5, 0.95) <= 0.95
    assert wish_of({"iou": text})[1] == 0.1
