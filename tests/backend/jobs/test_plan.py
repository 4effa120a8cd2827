"""The job that plans keeps what it found; where labels are too few it says so and is no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.jobs import plan
from backend.learning.kept_plan import KeptPlans
from backend.learning.label_plan import ProjectPlan
from tests.factories import resources
from usam.active.learning_curve import Plan, fit_curve


def test_what_was_planned_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = resources(tmp_path)
    history = [(0, 0.6), (10, 0.65), (30, 0.7), (60, 0.72)]
    curve = fit_curve([count for count, _ in history], [value for _, value in history])
    found = ProjectPlan(Plan.of(curve), history, "audits", 60, 20, 5)
    monkeypatch.setattr(plan, "plan_project", lambda *_, **__: found)
    assert plan.run(place, 1) == "done"
    kept = KeptPlans(place.settings.data_dir).get(1)
    assert kept is not None
    assert kept.labels == 60
    assert "next 100 labels" in place.store.runs(1, "plan")[0].reason
    place.store.close()


def test_too_few_labels_are_no_failure(tmp_path: Path) -> None:
    place = resources(tmp_path)
    assert plan.run(place, 1) == "skipped"
    assert place.store.runs(1, "plan")[0].reason
    assert KeptPlans(place.settings.data_dir).get(1) is None
    place.store.close()
