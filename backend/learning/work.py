"""What annotators changed of the masks that they were shown: the work that was left in a task, by the definition of
`usam.objects.effort`.

Only tasks of the ranking in use count, whose annotators saw its version. A mask counts as kept from an IoU of
`KEPT_IOU` on, compared on the grid of the low-resolution masks.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import ITEM_ERRORS
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Annotation
from backend.label_studio.shapes import masks_on
from backend.learning.examples import MarkedObject, overlaps_of
from backend.learning.samples import marked_objects
from backend.pool.kept_objects import KeptObjects
from backend.pool.policy import control_tasks, ranking_heads, version_named
from backend.pool.proposals import ScoredObjects, score_many
from backend.store.records import WorkRow
from usam.objects.effort import Work, count_work, match_objects

if TYPE_CHECKING:
    from backend.resources import Resources

KEPT_IOU = 0.9
"""IoU from which on a person's mask is the one that was shown."""
CONTROL_VERSION = "nothing shown"
"""What stands for a version where nothing was shown on purpose."""
FOUND_IOU = 0.5
"""IoU from which on a shown mask is of a person's object at all."""


def count_changes(
    annotation: Annotation,
    regions: Sequence[MarkedObject],
    scored: ScoredObjects,
    controls: LabelConfig,
    version: str,
    *,
    control: bool = False,
) -> WorkRow:
    """The work that the masks shown of one task left to who annotated it; of a `control` nothing was shown."""
    rows = [] if control else scored.shown.rows.tolist()
    overlap = overlaps_of(scored.kept.masks.logits(rows) > 0, regions)
    partner = match_objects(overlap, FOUND_IOU)
    iou = np.array([overlap[k, column] if column >= 0 else 0.0 for k, column in enumerate(partner)])
    labels = [scored.placed(row, controls).label for row in rows]
    theirs = [controls.place(one.label or None).label for one in regions]
    right = np.array([column >= 0 and labels[k] == theirs[column] for k, column in enumerate(partner)], bool)
    work = count_work(partner, iou, right, len(regions), good_iou=KEPT_IOU)
    lead = annotation.lead_s if annotation.lead_s is not None else float("nan")
    return WorkRow(
        annotation=annotation.id,
        task=annotation.task,
        version=version,
        kept=int(work.kept),
        deleted=int(work.deleted),
        relabelled=int(work.relabelled),
        corrected=int(work.corrected),
        added=int(work.added),
        lead_s=lead,
        at=time.time(),
        annotator=annotation.annotator or 0,
        control=control,
    )


class WorkCounter:
    """Counts the work of one project's new annotations, by the heads that the ranking they were served by was made
    with, whichever are in use by now: those may have learnt the same task since. They are read once."""

    def __init__(self, resources: Resources, project_id: int, label_config: str) -> None:
        self._resources, self._project, self._label_config = resources, project_id, label_config
        self._version_named = cache(partial(version_named, resources, project_id))

    def of(self, annotation: Annotation, kept: KeptObjects | None) -> WorkRow | None:
        """The work of one annotation; None where its task has no place in the ranking that is served, so that nobody
        can say what was shown, or where what was shown cannot be read any more."""
        store = self._resources.store
        place = store.place(self._project, annotation.task)
        if kept is None or place is None or place.version != store.served(self._project):
            return None
        try:
            named = ranking_heads(place.version)
            if not named:
                return None
            controls, (heads, learnt) = parse_config(self._label_config), self._version_named(named)
            (scored,) = score_many(heads, learnt, self._resources.settings, [kept])
            control = bool(control_tasks(self._resources.settings, self._project, [annotation.task]))
            regions = marked_objects(masks_on(controls.image_name, annotation.result), kept.hw)
            return count_changes(annotation, regions, scored, controls, place.version, control=control)
        except ITEM_ERRORS:
            return None


@dataclass(frozen=True)
class WorkSummary:
    """All the work that one version left, on so many tasks; `lead_s` is the median of Label Studio's clock, NaN where
    it never said."""

    version: str
    tasks: int
    work: Work
    lead_s: float

    @property
    def line(self) -> str:
        """One line for people."""
        if not self.work.shown:
            return f"nothing was shown on {self.tasks} tasks; people marked {self.work.added:.0f} objects"
        share = 100 / self.work.shown
        parts = [f"{self.work.kept * share:.0f} were kept as they were"]
        parts += [f"{value * share:.0f} {name}" for name, value in _changes(self.work)]
        clock = "" if np.isnan(self.lead_s) else f"; {self.lead_s:.0f} s a task (median)"
        found = self.work.shown - self.work.deleted
        return (
            f"of 100 objects shown {', '.join(parts)}; {self.work.added:.0f} of {found + self.work.added:.0f} wanted "
            f"objects had to be added ({self.tasks} tasks){clock}"
        )

    def facts(self) -> dict[str, float | str | None]:
        """As JSON values."""
        lead = None if np.isnan(self.lead_s) else round(self.lead_s, 1)
        return {"version": self.version, "tasks": self.tasks, **vars(self.work), "lead_s": lead, "line": self.line}


def summarize_work(rows: Sequence[WorkRow]) -> list[WorkSummary]:
    """The work by version of heads, the version that was used last at the end."""
    parts: dict[str, list[WorkRow]] = defaultdict(list)
    for row in rows:
        parts[CONTROL_VERSION if row.control else _version(row.version)].append(row)
    made = []
    for version, mine in parts.items():
        work = sum((Work(r.kept, r.deleted, r.relabelled, r.corrected, r.added) for r in mine), Work())
        leads = [row.lead_s for row in mine if not np.isnan(row.lead_s)]
        made.append(
            WorkSummary(version, len({r.task for r in mine}), work, float(np.median(leads)) if leads else float("nan"))
        )
    return sorted(made, key=lambda one: max(row.at for row in parts[one.version]))


@dataclass(frozen=True)
class Saving:
    """Seconds a wanted object that showing masks saves, with its 95 % interval over tasks; above 0 = saved. `shown` and
    `control` count the tasks of annotators who did both."""

    seconds: float
    low: float
    high: float
    shown: int
    control: int

    @property
    def line(self) -> str:
        """One line for people."""
        return (
            f"masks save {self.seconds:.1f} s a wanted object [{self.low:.1f}, {self.high:.1f}], by Label Studio's "
            f"clock on {self.shown} tasks with masks and {self.control} without, within each annotator"
        )


def saving(rows: Sequence[WorkRow], draws: int = 1000, seed: int = 0) -> Saving | None:
    """What showing masks saves, compared within each annotator and weighed by how much each tells; None where nobody
    has done a task of both kinds with the clock running.

    Tasks without a wanted object count as one.
    """
    arms: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row in rows:
        if not np.isnan(row.lead_s):
            wanted = row.kept + row.relabelled + row.corrected + row.added
            arms[row.annotator][row.control].append(row.lead_s / max(wanted, 1))
    both = [(np.array(shown), np.array(control)) for shown, control in arms.values() if shown and control]
    if not both:
        return None
    rng = np.random.default_rng(seed)
    weights = np.array([len(s) * len(c) / (len(s) + len(c)) for s, c in both])

    def mean(draw: bool) -> float:
        found = []
        for shown, control in both:
            s, c = ((rng.choice(part, len(part)) if draw else part).mean() for part in (shown, control))
            found.append(c - s)
        return float(np.average(found, weights=weights))

    low, high = np.percentile([mean(True) for _ in range(draws)], [2.5, 97.5])
    return Saving(mean(False), float(low), float(high), sum(len(s) for s, _ in both), sum(len(c) for _, c in both))


def _changes(work: Work) -> list[tuple[str, float]]:
    return [("relabelled", work.relabelled), ("corrected", work.corrected), ("deleted", work.deleted)]


def _version(name: str) -> str:
    """Checkpoint and heads, without the number of the ranking, which says nothing of what was shown."""
    return re.sub(r"\.\d+(-\d+)?$", "", name)
