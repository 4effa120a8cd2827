"""What the pool's actions did is told to people and to Prometheus alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.metrics.refinement import last_acting, lines_of
from backend.metrics.service import Metrics
from backend.store import Store

FIGURES: dict[str, Any] = {
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
def store(tmp_path: Path) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    made.join(3)
    for details in ({"acting": FIGURES}, {}):
        made.finish_run(made.start_run(3, "score_pool"), "done", "", details)
    return made


def test_the_newest_ranking_that_acted_is_told(store: Store) -> None:
    lines = lines_of(last_acting(store.runs(3, "score_pool")))
    assert lines == [
        "larger model: 60 of 200 objects, 12.5 s, budget 35%, used 34%, 50 kept, predicted IoU +0.050, "
        "true IoU -0.020 [-0.030, -0.010] on 40 labelled objects, suspended: it loses here",
        "alternatives: 9 of 200 objects, 1.0 s, budget 20%, used 0%",
    ]
    assert lines_of(last_acting([])) == []


def test_gauges_are_read_when_somebody_asks(store: Store) -> None:
    metrics = Metrics()
    metrics.show_pool(store)
    metrics.show_pool(store)
    text = metrics.text().decode()
    assert text.count('usam_pool_action_kept{action="larger",project="3"} 50.0') == 1
    assert 'usam_pool_action_true_gain{action="larger",project="3"} -0.02' in text
    assert 'usam_pool_action_acted{action="alternatives",project="3"} 9.0' in text
    assert 'usam_pool_action_true_gain{action="alternatives"' not in text
    store.close()
