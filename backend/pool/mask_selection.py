"""What a project's masks are chosen by, as its retrainings measured it.

A retraining records, for each head set that it looked at, what choosing by predicted IoU gained in true IoU on labelled
objects that the set had not learned from (`usam.active.mask_selection`): the run's details hold
`{"choice": {version: figures}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backend.settings import Settings
from backend.store.records import Run
from usam.active.mask_selection import MaskSelection, decide
from usam.active.refinement import Gain

_RUNS = 50


class RunRecords(Protocol):
    """What knows the runs of a project."""

    def runs(self, project: int | None = None, job: str | None = None, limit: int = 20) -> Sequence[Run]: ...


def mask_choice(settings: Settings, records: RunRecords, project: int, version: str, base: str) -> MaskSelection:
    """What to choose by with the heads `version` of a project; `base` is the version of the checkpoint's own heads.

    A gain that is not measured yet says nothing: then a project's heads choose as the checkpoint's do, and those by
    predicted IoU, which was measured when they were made.
    """
    if settings.mask_choice != "auto":
        return settings.mask_choice
    runs = records.runs(project, "retrain", limit=_RUNS)
    ours = decide(measured_gain(runs, base))
    return ours if version == base else decide(measured_gain(runs, version), ours)


def measured_gain(runs: Sequence[Run], version: str) -> Gain | None:
    """The newest measurement of a head set among these runs, newest first; None where there is none."""
    for run in runs:
        figures = run.details.get("choice", {}).get(version)
        if figures:
            return gain_of(figures)
    return None


def gain_of(figures: Mapping[str, Any]) -> Gain:
    """A gain from a record's figures."""
    nan = float("nan")
    value, low, high = (float(figures.get(name, nan)) for name in ("value", "low", "high"))
    return Gain(value, low, high, int(figures.get("objects", 0)), int(figures.get("images", 0)))
