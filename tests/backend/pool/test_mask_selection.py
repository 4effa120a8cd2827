"""What masks are chosen by stands in the store and is not forgotten, whatever runs come after."""

from __future__ import annotations

import math
from pathlib import Path

from backend.pool.mask_selection import mask_choice
from backend.settings import Settings
from backend.store import Store
from usam.active.refinement import Gain

LOSES = Gain(-0.05, -0.07, -0.03, 40, 20)


def test_fifty_skipped_runs_change_nothing(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    store.join(1)
    run = store.start_run(1, "retrain")
    store.put_selection_gains(1, run, {"mine": LOSES})
    store.finish_run(run, "rejected")
    for _ in range(50):
        store.finish_run(store.start_run(1, "retrain"), "skipped", "no label has changed since the last time")
    assert mask_choice(Settings(model="nano-s"), store, 1, "mine", "base") == "samscore"
    assert store.selection_gain(1, "mine") == LOSES
    store.close()


def test_a_gain_of_nothing_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'usam.db'}")
    store.put_selection_gains(1, 1, {"mine": Gain(math.nan, math.nan, math.nan, 0, 0)})
    gain = store.selection_gain(1, "mine")
    assert gain is not None
    assert math.isnan(gain.value)
    assert gain.pays is None
    store.close()
