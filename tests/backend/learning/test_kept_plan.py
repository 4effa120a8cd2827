"""A plan is kept, and read back as it was; a damaged one is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.learning.kept_plan import KeptPlan, KeptPlans
from backend.learning.label_plan import ProjectPlan
from usam.active.learning_curve import Plan, fit_curve


@pytest.fixture
def planned() -> ProjectPlan:
    history = [(count, 0.8 - 0.1 * float(np.exp(-count / 60))) for count in (0, 10, 30, 60, 120)]
    curve = fit_curve([count for count, _ in history], [value for _, value in history])
    return ProjectPlan(Plan.of(curve, "IoU 0.8: 9 more audit tasks", 9), history, "9 audit tasks", 150, 60, 9)


def test_a_plan_is_read_as_it_was_kept(tmp_path: Path, planned: ProjectPlan) -> None:
    kept, plans = KeptPlan.of(planned), KeptPlans(tmp_path)
    plans.put(3, kept)
    assert plans.get(3) == kept
    assert [gain.labels for gain in kept.gains] == [50, 100, 200]
    assert kept.gains[0].value < kept.gains[2].value
    assert all(point.low <= point.value <= point.high for point in (*kept.curve, *kept.gains))
    assert (kept.curve[0].labels, kept.curve[-1].labels) == (0, 320)
    assert plans.get(4) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"measured": 3}', "[" * 10_000, "\0"], ids=str.strip)
def test_a_damaged_plan_is_none(tmp_path: Path, content: str) -> None:
    plans = KeptPlans(tmp_path)
    plans.folder.mkdir()
    (plans.folder / "3.json").write_text(content)
    assert plans.get(3) is None


def test_of_a_plan_each_field_is_what_it_has_to_be(tmp_path: Path, planned: ProjectPlan) -> None:
    plans = KeptPlans(tmp_path)
    plans.put(3, KeptPlan.of(planned))
    path = plans.folder / "3.json"
    whole = json.loads(path.read_text())
    for name in whole:
        path.write_text(json.dumps({**whole, name: {"x": []}}))
        assert plans.get(3) is None, name
