"""What the workers did is told to people and to Prometheus alike, however many runs there were since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.metrics.service import Metrics
from backend.metrics.workers import Progress, refinement_lines
from backend.store import Store

REPORT: dict[str, Any] = {
    "larger": {
        "budget": 0.35,
        "considered": 200,
        "share_of_cost": 0.34,
        "suspended": True,
        "true_gain": {"value": -0.02, "low": -0.03, "high": -0.01, "objects": 40, "images": 20},
        "total": {"acted": 60, "kept": 50, "predicted_gain": 0.05, "seconds": 12.5},
    },
    "alternatives": {"budget": 0.2, "considered": 200, "total": {"acted": 9, "seconds": 1.0}},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    made.join(3)
    run = made.start_run(3, "score_pool")
    made.put_refinements(3, run, REPORT)
    made.finish_run(run, "done")
    for _ in range(60):
        made.finish_run(made.start_run(3, "score_pool"), "skipped", "the order in use is right")
    yield made
    made.close()


def test_refinements_are_told_to_people(store: Store) -> None:
    assert refinement_lines(store.refinements(3)) == [
        "larger model: 60 of 200 objects, 12.5 s, budget 35%, used 34%, 50 kept, predicted IoU +0.050, "
        "true IoU -0.020 [-0.030, -0.010] on 40 labelled objects, suspended: it loses here",
        "alternatives: 9 of 200 objects, 1.0 s, budget 20%, used 0%",
    ]
    assert refinement_lines({}) == []


def test_gauges_are_read_when_somebody_asks(store: Store) -> None:
    metrics = Metrics()
    metrics.show_pool(store)
    metrics.show_pool(store)
    text = metrics.text().decode()
    assert text.count('usam_pool_action_kept{action="larger",project="3"} 50.0') == 1
    assert 'usam_pool_action_true_gain{action="larger",project="3"} -0.02' in text
    assert 'usam_pool_action_acted{action="alternatives",project="3"} 9.0' in text
    assert 'usam_pool_action_true_gain{action="alternatives"' not in text


def test_the_newest_run_of_each_job_is_shown(store: Store) -> None:
    text = Progress(store).text().decode()
    assert 'usam_job_state{job="score_pool",project="3",state="skipped"} 1.0' in text
    assert 'usam_job_state{job="score_pool",project="3",state="done"} 0.0' in text
    assert 'job="retrain"' not in text
