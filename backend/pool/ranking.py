"""From cached proposals to an order of tasks, and whether the order in use is still the right one.

Legend: N unlabelled tasks, K objects of one. An acquisition says how much a person's answer is worth: higher = ask
first. A confidence is what Label Studio stores: lower = served first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.pool.policy import GAP_STRATEGIES, project_seed, settings_key, strategy_for
from backend.pool.proposals import ObjectScores
from backend.settings import Settings
from backend.store.records import ScoreRow

if TYPE_CHECKING:
    from backend.label_studio.records import Project
    from backend.resources import Resources
    from usam.heads.head_set import HeadSet

TOP = 3


@dataclass(frozen=True)
class PoolTask:
    """One unlabelled task to be ranked; `failure` says why it has no objects to go by."""

    task: int
    objects: Sequence[ObjectScores]
    features: npt.NDArray[np.float32] | None
    failure: str = ""


def rank(
    subjects: Sequence[PoolTask],
    heads: HeadSet | None,
    settings: Settings,
    project: int,
    version: str,
) -> list[ScoreRow]:
    """Places of all tasks, first to be served first. Tasks that failed come last; near-duplicates are kept apart."""
    from usam.active.acquisition import image_score, object_scores
    from usam.active.ordering import rank_pool

    if not subjects:
        return []
    strategy, _ = strategy_for(settings, heads)
    quality = (heads.quality_for(settings.model) if heads is not None else None) or ""
    worth, why = [], []
    for subject in subjects:
        columns = {
            name: np.array([one.scores[name] for one in subject.objects])
            for name in (subject.objects[0].scores if subject.objects else ())
        }
        if subject.failure or not subject.objects:
            worth.append(float("nan") if subject.failure else 0.0)
            why.append(subject.failure or "nothing found in it")
            continue
        rng = np.random.default_rng([settings.seed, project, subject.task])
        found = object_scores(columns, columns["samscore"], strategy, quality=quality, rng=rng)
        worth.append(image_score(found, settings.image_rule, top=TOP))
        why.append(_explain(strategy, columns, found))
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
        )
        for place, old in enumerate(order)
    ]


def _explain(strategy: str, columns: Mapping[str, npt.NDArray[Any]], found: npt.NDArray[Any]) -> str:
    """Why a task stands where it stands, for people."""
    top = np.argsort(-found)[:TOP]
    count = len(found)
    said = [
        f"{name.replace('_', ' ')} {columns[name][top].mean():.2f}"
        for name in GAP_STRATEGIES.get(strategy, ())
        if name in columns
    ] or [f"{strategy} {found[top].mean():.2f}"]
    return f"{' and '.join(said)} on its {min(TOP, count)} most doubtful of {count} objects"


def ranking_is_stale(resources: Resources, known: Project) -> str:
    """Why the pool has to be ranked again; empty where the order in use is right."""
    store, project = resources.store, known.id
    pool = {task.id for task in store.tasks(project, unlabelled=True)}
    if not pool:
        return ""
    last = store.last_run(project, "score_pool")
    if last is None or not store.served(project):
        return "never ranked"
    if known.model_version != store.served(project):
        return f"the project's version is {known.model_version!r}, not ours"
    if last.state not in ("done", "skipped", "running"):
        return f"the last ranking is {last.state}"
    new = pool - {row.task for row in store.ranking(project)}
    if new:
        return f"{len(new)} tasks have no rank"
    done = store.last_run(project, "score_pool", ("done",))
    wanted = settings_key(resources.settings, resources.registry.champion(project), known.label_config)
    if done is not None and done.fingerprint != wanted:
        return "settings, heads or the labelling configuration have changed"
    return ""
