"""The versions' page: a project's head sets, what the gate measured of each, and which one is in use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.errors import RegistryError
from backend.learning.work import summarize_work
from backend.store.records import VerdictRow, WorkRow

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.head_registry import Registry
    from backend.store.head_versions import Promotion, Version

BASE_HEADS = "heads that come with the checkpoint"
BASE_NAME = "base"
"""How an address calls these."""
SHOWN, MOVES_SHOWN, WORK_SHOWN = 50, 20, 8
KINDS: Mapping[str, str] = {"promotion": "put in use", "rollback": "rolled back to", "repair": "repaired to"}
METHODS: Mapping[str, str] = {"audit": "audit tasks"}


@dataclass(frozen=True)
class Judgement:
    """What the gate measured of a candidate beside the version in use then; errors are mean squared, lower = better.
    `share` of draws in which the candidate was better, 0..1; None where it is not known."""

    error: float
    before: float | None
    share: float | None
    how: str
    objects: int
    tasks: int


@dataclass(frozen=True)
class VersionLine:
    """One head set. `name` is empty for the checkpoint's own, `address` is how a form calls it."""

    name: str
    address: str
    made_at: float
    objects: int
    labels: int
    in_use: bool
    judgement: Judgement | None
    learnt: str = ""
    """What it knows of the project's objects, for people; empty where nothing."""
    scores_stay: str = ""
    """Where its scores are those of the version before it: what the gate said of new ones."""


@dataclass(frozen=True)
class WorkLine:
    """What people changed of the masks that one version showed, in objects of a hundred shown; `added` is the share of
    the wanted objects that were not shown, 0..1; `seconds` a task by Label Studio's clock, None if it is silent."""

    version: str
    tasks: int
    kept: float
    relabelled: float
    corrected: float
    deleted: float
    added: float
    seconds: float | None


@dataclass(frozen=True)
class Refused:
    """A candidate that the gate refused."""

    at: float
    name: str
    judgement: Judgement | None
    method: str


@dataclass(frozen=True)
class Move:
    """One move to another version, with its reason, which says who asked for it."""

    at: float
    what: str
    reason: str


@dataclass(frozen=True)
class VersionsPage:
    """What the page shows. `damage` says why the versions cannot be read, if they cannot."""

    lines: tuple[VersionLine, ...] = ()
    refused: tuple[Refused, ...] = ()
    moves: tuple[Move, ...] = ()
    work: tuple[WorkLine, ...] = ()
    damage: str = ""
    more: int = 0

    @property
    def in_use(self) -> str:
        """The version in use, for people."""
        return next((line.name or BASE_HEADS for line in self.lines if line.in_use), "not known")


def versions_page(store: Store | None, registry: Registry | None, project: int) -> VersionsPage:
    """The versions of a project, newest first, the checkpoint's own last."""
    if registry is None:
        return VersionsPage(damage="this service keeps no versions")
    try:
        champion, history = registry.champion(project), registry.history(project)
        known = registry.versions(project)
    except RegistryError as error:
        return VersionsPage(damage=str(error))
    lines = [line_of(version, champion) for version in reversed(known[-SHOWN:])]
    lines.append(VersionLine("", BASE_NAME, 0.0, 0, 0, not champion, None))
    verdicts = store.verdicts(project) if store is not None else []
    return VersionsPage(
        tuple(lines),
        tuple(refused_of(row) for row in verdicts if not row.promote),
        tuple(move_of(step) for step in reversed(history[-MOVES_SHOWN:])),
        work_lines(store.work(project)) if store is not None else (),
        more=max(len(known) - SHOWN, 0),
    )


def line_of(version: Version, champion: str) -> VersionLine:
    """One row of the table."""
    stays = scores_stay(version.figures)
    return VersionLine(
        version.version,
        version.version,
        version.made_at,
        version.samples,
        len(version.labels),
        version.version == champion,
        None if stays else judgement_of(version.figures),
        learnt_of(version.learnt_figures),
        stays,
    )


def scores_stay(figures: Mapping[str, Any]) -> str:
    """What the gate said of the scores that a version did not take; empty where it took new ones.

    >>> scores_stay({"promote": False, "candidate_error": 0.0054, "champion_error": 0.0053, "objects": 43, "tasks": 10})
    'scores as before; new ones were not surely better: error 0.0054 against 0.0053 before, on 43 objects of 10 tasks'
    """
    if figures.get("promote", True):
        return ""
    line = judgement_line(judgement_of(figures))
    return f"scores as before; new ones were not surely better{line and ': '}{line}"


def learnt_of(figures: Mapping[str, Any]) -> str:
    """What a version has learnt of a project's objects, by images that were left out.

    >>> learnt_of({"wanted_precision": 0.8, "wanted_recall": 0.9, "class_accuracy": 0.95})
    'of what it would show 80 % is wanted, of the wanted it shows 90 %; 95 % of labels right'
    """
    precision, recall = known(figures.get("wanted_precision")), known(figures.get("wanted_recall"))
    accuracy, parts = known(figures.get("class_accuracy")), []
    if precision is not None and recall is not None:
        parts.append(
            f"of what it would show {precision * 100:.0f} % is wanted, of the wanted it shows {recall * 100:.0f} %"
        )
    if accuracy is not None:
        parts.append(f"{accuracy * 100:.0f} % of labels right")
    return "; ".join(parts)


def work_lines(rows: Sequence[WorkRow]) -> tuple[WorkLine, ...]:
    """The work that versions left to people, the present one first."""
    lines = []
    for one in reversed(summarize_work(rows)[-WORK_SHOWN:]):
        work, share = one.work, 100 / max(one.work.shown, 1)
        found = work.shown - work.deleted
        lines.append(
            WorkLine(
                one.version,
                one.tasks,
                work.kept * share,
                work.relabelled * share,
                work.corrected * share,
                work.deleted * share,
                work.added / max(found + work.added, 1),
                None if math.isnan(one.lead_s) else one.lead_s,
            )
        )
    return tuple(lines)


def judgement_of(figures: Mapping[str, Any]) -> Judgement | None:
    """What the gate measured; None where it says nothing of errors."""
    error = known(figures.get("candidate_error"))
    if error is None:
        return None
    method = str(figures.get("method", ""))
    return Judgement(
        error,
        known(figures.get("champion_error")),
        known(figures.get("share")),
        METHODS.get(method, method),
        int(known(figures.get("objects")) or 0),
        int(known(figures.get("tasks")) or 0),
    )


def judgement_line(judgement: Judgement | None) -> str:
    """What the gate measured, in one line; empty where it measured nothing.

    >>> judgement_line(Judgement(0.0015, 0.0054, 1.0, "cross-validation", 43, 10))
    'error 0.0015 against 0.0054 before, in 100 % of draws better, on 43 objects of 10 tasks (cross-validation)'
    """
    if judgement is None:
        return ""
    before = f" against {judgement.before:.4f} before" if judgement.before is not None else ""
    share = f", in {judgement.share * 100:.0f} % of draws better" if judgement.share is not None else ""
    on = f"{judgement.objects} objects of {judgement.tasks} tasks" + (f" ({judgement.how})" if judgement.how else "")
    return f"error {judgement.error:.4f}{before}{share}, on {on}"


def refused_of(row: VerdictRow) -> Refused:
    """A refusal of the gate."""
    figures = {name: getattr(row, name) for name in ("candidate_error", "champion_error", "share", "objects", "tasks")}
    return Refused(row.judged_at, row.candidate, judgement_of({**figures, "method": row.method}), row.method)


def move_of(step: Promotion) -> Move:
    """One move of the pointer."""
    return Move(step.at, f"{KINDS.get(step.kind, step.kind)} {step.version or 'the ' + BASE_HEADS}", step.reason)


def known(value: object) -> float | None:
    """A number; None for what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def earlier(lines: Sequence[VersionLine], address: str) -> VersionLine | None:
    """The version that an address names, unless it is in use."""
    return next((line for line in lines if line.address == address and not line.in_use), None)
