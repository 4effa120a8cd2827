"""Helping with a ranking is harmless where there is none, and keeps no record."""

from __future__ import annotations

from pathlib import Path

from backend.jobs.score_shard import run
from tests.factories import resources


def test_without_a_ranking_there_is_nothing_to_help_with(tmp_path: Path) -> None:
    place = resources(tmp_path)
    run(place, 1)
    assert place.store.runs(1) == []
    place.store.close()
