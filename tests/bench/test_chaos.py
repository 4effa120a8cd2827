"""A report of faults becomes figures, and anything lost is a target missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import chaos

REPORT: dict[str, Any] = {
    "faults": 4, "seed": 1, "made": 9, "changed": 2, "deleted": 1, "in_label_studio": 8, "in_store": 8, "lost": [],
    "missing_in_store": [], "extra_in_store": [], "slowest": [3.5, "2. kill worker; add"],
}  # fmt: skip


def test_a_finished_report_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sqlite.json").write_text(json.dumps(REPORT))
    monkeypatch.setenv("USAM_CHAOS_REPORTS", str(tmp_path))
    monkeypatch.setattr(chaos, "postgres_programs", lambda: None)
    lost, slowest = chaos.run()
    assert (lost.value, lost.met) == (0, True)
    assert (slowest.value, slowest.met) == (3.5, True)
    assert "9 labels made" in lost.note


@pytest.mark.parametrize("kind", ["lost", "missing_in_store", "extra_in_store"])
def test_whatever_is_lost_is_a_target_missed(kind: str) -> None:
    lost, _ = chaos.rows_of("sqlite", {**REPORT, kind: [7]})
    assert lost.met is False
