"""Find all like this: candidates of unlabelled tasks that look most like what somebody marked on others.

The examples are a person's regions on some tasks, as a sync made them; the pool is what was proposed for tasks that
nobody has labelled. No model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.errors import JobError
from backend.label_studio.config import LabelConfig
from backend.label_studio.records import Json
from backend.label_studio.regions import ScoredMask, masks_to_regions
from backend.learning.examples import join_examples
from backend.pool.kept_objects import KeptObjects, read_kept
from backend.settings import Settings
from backend.store import Store
from backend.store.records import KnownTask
from usam.objects.similar import find_similar
from usam.predictor.clean_proposals import ProposalRules, clean_proposals

PER_IMAGE = 10
"""Most objects of one image."""


@dataclass(frozen=True)
class LikeObject:
    """A candidate `number` of a task, and how much it looks like the examples: a cosine, in -1..1, higher = more."""

    task: int
    number: int
    similarity: float


@dataclass(frozen=True)
class LikeObjects:
    """What was found, the most alike first; `label` is the examples' where they all have the same."""

    objects: list[LikeObject]
    examples: int
    label: str | None
    kept: Mapping[int, KeptObjects] = field(repr=False)

    @property
    def by_task(self) -> dict[int, list[LikeObject]]:
        """Task -> its objects, the task with the most alike first."""
        found: dict[int, list[LikeObject]] = {}
        for one in self.objects:
            found.setdefault(one.task, []).append(one)
        return found


def find_like(
    store: Store, project: int, tasks: Sequence[int], *, label: str | None = None, most: int = 50, least: float = 0.2
) -> LikeObjects:
    """Candidates of unlabelled tasks that look like what is marked on `tasks`, with this label where one is given.

    At most `most`, none of a similarity below `least`. Raises `JobError` where nothing is marked there that could be
    compared, and where nothing is proposed yet.
    """
    wanted = set(tasks)
    rows = [row for row in store.examples(project) if row.task in wanted]
    if not rows:
        raise JobError(
            f"marked objects on task {', '.join(map(str, sorted(wanted)))}", "none", "annotate it, and wait for a sync"
        )
    version = rows[-1].features_version
    examples = join_examples([row for row in rows if row.features_version == version])
    labels = np.array([given[0] if given else "" for given in examples.labels])
    chosen = ~np.asarray(examples.proposed) & ((labels == label) if label is not None else True)
    if not chosen.any():
        named = sorted(set(labels[~np.asarray(examples.proposed)].tolist()))
        raise JobError(f"objects labelled {label!r}", ", ".join(named) or "no object at all", "choose one of these")
    kept = _pool(store, project, version)
    if not kept:
        raise JobError("tasks with proposals", "none", f"usam-backend score --project {project}")
    images = [task for task, one in kept.items() for _ in range(len(one))]
    numbers = [number for one in kept.values() for number in range(len(one))]
    features = np.concatenate([one.looks.features for one in kept.values()])
    found = find_similar(np.asarray(examples.features)[chosen], features, most=len(features), least=least)
    objects = [
        LikeObject(images[row], numbers[row], round(float(value), 4))
        for row, value in zip(found.rows.tolist(), found.similarity, strict=True)
    ]
    names = set(labels[chosen].tolist()) - {""}
    return LikeObjects(
        _distinct(objects, kept)[:most], int(chosen.sum()), names.pop() if len(names) == 1 else None, kept
    )


def _distinct(objects: Sequence[LikeObject], kept: Mapping[int, KeptObjects]) -> list[LikeObject]:
    """The objects, the most alike first, without parts and copies of ones that are more alike."""
    alike = {task: np.full(len(one), -1.0) for task, one in kept.items()}
    for one in objects:
        alike[one.task][one.number] = (1 + one.similarity) / 2
    rules = ProposalRules(0.0, largest=1.0, border=1.0, most=PER_IMAGE)
    rows = {task: set(clean_proposals(kept[task].layout, alike[task], rules).tolist()) for task in alike}
    return [one for one in objects if one.number in rows[one.task]]


def _pool(store: Store, project: int, version: str) -> dict[int, KeptObjects]:
    tasks = [task.id for task in store.tasks(project, unlabelled=True)]
    return {
        task: one
        for batch in read_kept(store, project, tasks)
        for task, one in batch.objects.items()
        if one.looks.version == version and len(one)
    }


def like_predictions(
    found: LikeObjects, tasks: Mapping[int, KnownTask], controls: LabelConfig, settings: Settings, version: str
) -> list[Json]:
    """A prediction for each task in which something was found, to be confirmed by people: its score is the highest
    similarity."""
    predictions = []
    for number, objects in found.by_task.items():
        kept, data = found.kept[number], tasks[number].data
        masks = [
            ScoredMask(mask, max(one.similarity, 0.0), label=found.label, notes=("like what was marked",))
            for one in objects
            if (mask := kept.mask(one.number)).any()
        ]
        result = masks_to_regions(
            masks,
            controls,
            tolerance=settings.polygon_tolerance,
            data=data,
            unknown_label=settings.unknown_label,
        )
        score = max(0.0, min(1.0, objects[0].similarity))
        predictions.append({"task": number, "result": result, "score": score, "model_version": version})
    return predictions
