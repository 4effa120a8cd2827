"""From cached proposals to an order of tasks, and whether the order in use is still the right one.

Legend: N unlabelled tasks, K objects of one. An acquisition says how much a person's answer is worth: higher = ask
first. A confidence is what Label Studio stores: lower = served first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.inference.shown import ShownObjects
from backend.pool.policy import GAP_STRATEGIES, control_tasks, project_seed, settings_key, strategy_for
from backend.pool.proposals import ScoredObjects
from backend.settings import Settings
from backend.store.records import ScoreRow
from usam.active.acquisition import UNCOVERED_WEIGHT

if TYPE_CHECKING:
    from backend.label_studio.records import Project
    from backend.resources import Resources
    from usam.heads.head_set import HeadSet

SILENT_S = 900.0
"""A ranking that told nothing for so long was lost with its job, as by a power cut. If it was not, a lease
keeps the next one waiting."""
TOP = 3
CONTROL = "nothing is shown on purpose, to tell what masks save"


@dataclass(frozen=True)
class PoolTask:
    """One unlabelled task to be ranked; `failure` says why it has no objects to go by.

    columns (K,) scores of its candidates by name, iou (K,), shown   as in `pool.proposals.ScoredObjects`
    features (D,)   of the image
    labels          what those shown are called, each once
    acted (K,)      what was done to each candidate, in bits
    uncovered       share of it, 0..1, that nothing shown covers
    """

    task: int
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    iou: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    shown: ShownObjects | None = None
    features: npt.NDArray[np.float32] | None = None
    uncovered: float = 1.0
    failure: str = ""
    labels: tuple[str, ...] = ()
    acted: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, task: int, scored: ScoredObjects) -> PoolTask:
        """From what is kept and scored."""
        kept = scored.kept
        features = np.asarray(kept.image_features, np.float32)
        uncovered = kept.uncovered(scored.shown.rows)
        labels = {scored.label(row) for row in scored.shown.rows.tolist()}
        named = tuple(sorted(label for label in labels if label))
        return cls(task, scored.columns, scored.iou, scored.shown, features, uncovered, labels=named, acted=kept.acted)


def acquisition_of(subject: PoolTask, strategy: str, quality: str, settings: Settings) -> float:
    """What a person's answer about a task is worth, higher = ask first; the same for `/predict` and the pool.

    Raises `HeadsError` where a score is missing.
    """
    from usam.active.acquisition import image_acquisition, random_acquisition

    if strategy == "random" or (not len(subject.iou) and strategy != "expected-error"):
        draw = float(random_acquisition([subject.task], settings.seed)[0])
        return draw if strategy == "random" else 1.0 + draw  # nothing to go by, all of it to be marked
    shown = subject.shown
    return image_acquisition(
        strategy,
        subject.columns,
        subject.columns.get("samscore", subject.iou),
        subject.iou,
        shown.rows if shown is not None else np.zeros(0, np.int64),
        rule=settings.image_rule,
        quality=quality,
        distinct=shown.distinct if shown is not None else None,
        wanted=shown.wanted if shown is not None else None,
        label=shown.label_score if shown is not None else None,
        uncovered=subject.uncovered,
        top=TOP,
    )


def rank(
    subjects: Sequence[PoolTask],
    heads: HeadSet | None,
    settings: Settings,
    project: int,
    version: str,
) -> list[ScoreRow]:
    """Places of all tasks, first to be served first. Tasks that failed come last; near-duplicates are kept apart."""
    from usam.active.ordering import rank_pool

    if not subjects:
        return []
    strategy, _ = strategy_for(settings, heads)
    quality = (heads.quality_for(settings.model) if heads is not None else None) or ""
    nan = float("nan")
    worth = [nan if one.failure else acquisition_of(one, strategy, quality, settings) for one in subjects]
    control = control_tasks(settings, project, [one.task for one in subjects])
    why = [one.failure or (CONTROL if one.task in control else _explain(strategy, one)) for one in subjects]
    width = max((len(s.features) for s in subjects if s.features is not None), default=1)
    features = np.zeros((len(subjects), width), np.float32)
    for row, subject in enumerate(subjects):
        if subject.features is not None:
            features[row] = subject.features
    ranking = rank_pool(
        [subject.task for subject in subjects],
        np.array(worth),
        features - features.mean(axis=0),
        audit_share=settings.audit_share,
        seed=project_seed(settings, project),
    )
    failed = [bool(subjects[int(index)].failure) for index in ranking.order]
    order = sorted(range(len(subjects)), key=lambda place: failed[place])  # an audit cannot be answered either
    return [
        ScoreRow(
            task=subjects[int(ranking.order[old])].task,
            version=version,
            acquisition=float(np.nan_to_num(worth[int(ranking.order[old])], nan=-1.0)),
            confidence=(place + 1) / len(order),
            place=place,
            is_audit=bool(ranking.is_audit[old]),
            reason=why[int(ranking.order[old])],
            shown=_shown(subjects[int(ranking.order[old])], control),
            labels=_labels(subjects[int(ranking.order[old])], control),
        )
        for place, old in enumerate(order)
    ]


def _shown(subject: PoolTask, control: Collection[int]) -> tuple[int, ...]:
    return tuple(subject.shown.rows.tolist()) if subject.shown is not None and subject.task not in control else ()


def _labels(subject: PoolTask, control: Collection[int]) -> list[str]:
    return list(subject.labels) if subject.task not in control else []


def _explain(strategy: str, subject: PoolTask) -> str:
    """Why a task stands where it stands, for people: what is doubtful most, then the figures."""
    shown = subject.shown
    if shown is None or not len(subject.iou):
        return "nothing found in it, all of it is to be marked"
    if strategy == "random":
        return f"drawn at random, {_count(len(shown.rows), 'object')} shown"
    if not len(shown.rows):
        return "nothing in it is sure enough to be shown"
    rows = shown.rows
    figures: dict[str, float] = {}
    lead = ""
    if strategy == "expected-error":
        figures, lead = _expected(subject, rows)
    for name in _doubts(strategy):
        if name in subject.columns:
            figures[name.replace("_", " ")] = float(np.sort(subject.columns[name][rows])[::-1][:TOP].mean())
    told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items()) or strategy
    if strategy == "expected-error":
        return f"{lead}: {told} on its {_count(len(rows), 'object')} shown"
    return f"{told} on its {min(TOP, len(rows))} most doubtful of {_count(len(rows), 'object')}"


def _expected(subject: PoolTask, rows: npt.NDArray[np.int64]) -> tuple[dict[str, float], str]:
    """The parts of an expected error, each in 0..1, and what the largest of them means."""
    assert subject.shown is not None
    error, labels = 1 - float(subject.iou[rows].mean()), subject.shown.label_score[rows]
    there = subject.iou[subject.shown.distinct].astype(np.float64) ** 2
    missing = float(there[~np.isin(subject.shown.distinct, rows)].sum() / max(there.sum(), 1e-9))
    figures = {"expected error": error, "not shown": missing}
    if not np.isnan(labels).any():
        figures["label doubt"] = 1 - float(labels.mean())
    figures["not covered"] = subject.uncovered
    weights = {"label doubt": 1 - error, "not covered": UNCOVERED_WEIGHT}
    missed = "objects may be missing"
    leads = {"expected error": "masks doubtful", "label doubt": "labels doubtful"}
    leads |= {"not shown": missed, "not covered": missed}
    return figures, leads[max(figures, key=lambda name: figures[name] * weights.get(name, 1.0))]


def _doubts(strategy: str) -> tuple[str, ...]:
    return ("task_gap", "model_gap") if strategy == "expected-error" else GAP_STRATEGIES.get(strategy, ())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def ranking_is_stale(resources: Resources, known: Project) -> str:
    """Why the pool has to be ranked again; empty where the order in use is right."""
    store, project = resources.store, known.id
    pool, new = store.unranked(project)
    if not pool:
        return ""
    last = store.last_run(project, "score_pool")
    if last is None or not store.served(project):
        return "never ranked"
    if known.model_version != store.served(project):
        return f"the project's version is {known.model_version!r}, not ours"
    if last.state not in ("done", "skipped", "running"):
        return f"the last ranking is {last.state}"
    if last.state == "running" and abs(time.time() - last.changed_at) > SILENT_S:
        return "the last ranking ended without a word"
    if new:
        return f"{new} tasks have no rank"
    done = store.last_run(project, "score_pool", ("done",))
    wanted = settings_key(resources.settings, resources.registry.champion(project), known.label_config)
    if done is not None and done.fingerprint != wanted:
        return "settings, heads or the labelling configuration have changed"
    return ""
