"""The page of trust: whether predicted IoUs are true, and what masks accepted without a person rest on."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from backend.errors import RegistryError
from backend.learning.samples import sampled_in_use
from backend.pool.policy import audit_tasks
from backend.settings import Settings
from backend.store.pseudo_label_store import PseudoLabelRun
from backend.web.dashboard.acceptance import Asked, asked_of, promise_of
from backend.web.dashboard.calibration import Audited, Calibrated, audited_by, calibrated
from backend.web.dashboard.what_if import Outcome, WhatIf, outcome_of, table_of, wish_of
from usam.checkpoints.registry import weights_of
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.head_registry import Registry
    from usam.heads.head_set import HeadSet

_Kept: TypeAlias = tuple[object, Calibrated | None, Candidates | None]
"""What it depends on, the calibration, and the audited masks."""


@dataclass(frozen=True)
class TrustPage:
    """What the page shows. `heads` names those judged; `audited` and `audits_left` count audit tasks, labelled and
    open."""

    heads: str
    calibration: Calibrated | None
    audited: int
    audits_left: int
    promise: tuple[str, ...] = ()
    promise_state: str = ""
    promise_calibration: Calibrated | None = None
    trouble: str = ""
    unreadable: str = ""
    """Why the heads in use cannot be read."""
    what_if: WhatIf | None = None
    wish: RiskGuarantee = field(default_factory=RiskGuarantee)
    """What the sliders show."""
    asked: tuple[Asked, ...] = ()

    @property
    def can_take_back(self) -> bool:
        """Whether masks are accepted, or may be: by what is being done, or was cut short."""
        return bool(self.promise) or any(one.is_open or one.state == "failed" for one in self.asked)


class Trust:
    """Calibrations of projects, computed again where heads or labels have changed. Safe to share between threads."""

    def __init__(self, settings: Settings, store: Store, registry: Registry | None) -> None:
        self._settings, self._store, self._registry = settings, store, registry
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}
        self._tables: dict[int, tuple[object, tuple[tuple[float, tuple[Outcome, ...]], ...]]] = {}
        self._promises: dict[int, tuple[PseudoLabelRun, Calibrated | None]] = {}

    def page(
        self, project: int, record: PseudoLabelRun | None, trouble: str = "", asked: Mapping[str, str] | None = None
    ) -> TrustPage:
        """The page of a project; `record` is that of its accepted masks in use, `asked` an `iou` and a `risk`."""
        checkpoint, champion, unreadable = weights_of(self._settings.model), "", ""
        kept: _Kept = None, None, None
        try:
            if self._registry is not None:
                checkpoint = sampled_in_use(self._registry, project, self._settings)
                champion = self._registry.champion(project)
        except RegistryError as error:
            unreadable = str(error)
        audits = sorted(audit_tasks(self._settings, project, self._store.sampled_tasks(project, checkpoint)))
        try:
            kept = kept if unreadable else self._judged(project, checkpoint, champion, audits)
        except RegistryError as error:
            unreadable = str(error)
        open_tasks = self._store.open_task_ids(project)
        return TrustPage(
            heads=champion,
            calibration=kept[1],
            audited=len(audits),
            audits_left=len(audit_tasks(self._settings, project, open_tasks)),
            promise=tuple(promise_lines(record)) if record is not None else (),
            promise_state=state_of(record),
            promise_calibration=self._promised(project, record) if record is not None else None,
            trouble=trouble,
            unreadable=unreadable,
            what_if=self._what_if(project, kept[0], kept[2], asked or {}),
            wish=promise_of(asked or {}),
            asked=asked_of(self._store, project),
        )

    def _judged(self, project: int, checkpoint: str, champion: str, audits: Sequence[int]) -> _Kept:
        """What the labels of audit tasks say of the heads in use, kept until either changes. Raises `RegistryError`."""
        state = (champion, tuple(audits), self._store.newest_sample(project, checkpoint))
        with self._lock:
            kept = self._kept.get(project)
        if kept is None or kept[0] != state:
            heads = heads_named(self._settings, self._registry, project, champion)
            rows = self._store.samples_of(project, checkpoint, audits) if heads is not None else []
            audited = audited_by(heads, self._settings.model, rows) if heads is not None and rows else None
            found = calibrated(audited) if audited is not None else None
            kept = state, found, candidates_of(audited) if audited is not None and len(audited) else None
            with self._lock:
                self._kept[project] = kept
        return kept

    def _what_if(
        self, project: int, state: object, audit: Candidates | None, asked: Mapping[str, str]
    ) -> WhatIf | None:
        if audit is None:
            return None
        table = self._tables.get(project)
        if table is None or table[0] != state:
            table = self._tables[project] = state, table_of(audit)
        return WhatIf(outcome_of(audit, *wish_of(asked)), table[1])

    def _promised(self, project: int, record: PseudoLabelRun) -> Calibrated | None:
        kept = self._promises.get(project)
        if kept is None or kept[0] is not record:
            kept = self._promises[project] = record, calibrated(audited_of(record.calibrated_on()))
        return kept[1]


def heads_named(settings: Settings, registry: Registry | None, project: int, version: str) -> HeadSet | None:
    """The heads of a version that fit the checkpoint, else those that come with it; None where there are none. Raises
    `RegistryError` where they cannot be read."""
    if version and registry is not None:
        heads = registry.load(project, version)
        if heads.fits(settings.model):
            return heads
    from usam.heads.bundled import resolve_heads

    return resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)


def candidates_of(audited: Audited) -> Candidates:
    """Audited objects as a calibration takes them. Their task gaps are not told: people said which object is meant."""
    names = [str(number) for number in range(len(audited))]
    return Candidates(names, audited.images.tolist(), audited.predicted, true_iou=audited.true)


def audited_of(candidates: Candidates) -> Audited:
    """The audit labels that a promise was calibrated on."""
    true = np.zeros(0) if candidates.true_iou is None else np.asarray(candidates.true_iou, np.float64)
    predicted = np.asarray(candidates.predicted_iou, np.float64)[: len(true)]
    known = np.isfinite(predicted) & np.isfinite(true)
    return Audited(predicted[known], true[known], candidates.places[: len(true)][known])


def state_of(record: PseudoLabelRun | None) -> str:
    """How a promise stands, in a word or two."""
    if record is None:
        return ""
    return "in force" if record.state == "written" else "withdrawn"


def promise_lines(record: PseudoLabelRun) -> Sequence[str]:
    """What is promised, and what it rests on."""
    calibration, promise = record.calibration, record.calibration.promise
    share = f"{calibration.failed} of {calibration.accepted}" if calibration.accepted else "none"
    lines = [
        f"{len(record.masks):,} masks on {len(record.tasks):,} tasks are accepted as `{record.version}`.",
        f"The promise: at most {promise.risk:.0%} of them overlap their object by less than IoU {promise.iou:g}; this "
        f"holds with confidence {promise.confidence:.0%}.",
        f"It rests on {calibration.images:,} audited images: of their masks that would have been accepted, {share} "
        f"fell short (p = {calibration.p_value:.2g}, asked for at most {promise.level:.2g}).",
        f"Accepted are masks of expected IoU {calibration.threshold:.3f} and more, {calibration.pool_share:.0%} of the "
        f"pool's; at most {promise.per_image} of an image, none with a task gap above {promise.task_gap:g}.",
    ]
    drift = record.drift
    if {"failed", "accepted", "images", "wealth", "limit"} <= drift.keys():
        lines.append(
            f"Audits since: {drift['failed']} of {drift['accepted']} accepted masks fell short in {drift['images']} "
            f"images; evidence against the promise {drift['wealth']:.2g}, withdrawn from {drift['limit']:.0f} on."
        )
    else:
        lines.append("No audit label has come in since that would speak for or against it.")
    if record.state == "withdrawn":
        lines.append(
            "It is withdrawn. Take the masks back (the button below, or `usam-backend pseudo-label --project N "
            "--undo`), or label more audit tasks and accept again."
        )
    return lines
