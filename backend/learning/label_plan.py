"""What more labels will bring to a live project, from the labels it has.

Legend: N labels (objects that people marked), n of them learnt from; quality is the mean IoU of the masks that the
machine would choose for objects that were not learnt from, in [0, 1].

The history is made again rather than remembered: heads are fitted to the first n labels for growing n, as the job
`retrain` does, and judged on the audit tasks, which were drawn at random and are never trained on. Where there are too
few audits, tasks are held out in turn. So all points are measured alike, whenever heads were trained and whichever
version a person went back to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import JobError
from backend.learning.samples import prefer_mask_samples, sampled_in_use, to_batch
from backend.learning.training import fit
from backend.pool.policy import audit_tasks, project_seed
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import SampleRow
from usam.active.learning_curve import Plan, fit_curve
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee, calibrate
from usam.training.gate import MIN_AUDIT_OBJECTS, MIN_AUDIT_TASKS, Batch, take

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

LEAST_LABELS, LEAST_TASKS = 12, 6
SIZES = 7
ORDERS, MANY = 3, 3000
"""Orders in which labels are learnt again; one where there are more labels than that."""
FOLDS = 3
Say = Callable[[int, int], None]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProjectPlan:
    """The plan and what it rests on. `history`: (labels, quality) pairs; `method` says on what they were measured;
    `labels` and `tasks` are those that people have given, `audits` tasks among them.
    """

    plan: Plan
    history: list[tuple[int, float]]
    method: str
    labels: int
    tasks: int
    audits: int

    def lines(self) -> list[str]:
        """For people."""
        base = float(np.mean([quality for count, quality in self.history if count == 0]))
        return [
            f"{self.labels} labels on {self.tasks} tasks, {self.audits} of them audits; quality is the mean IoU of the "
            f"machine's masks, measured by {self.method}; {base:.3f} without any label",
            *self.plan.lines(),
        ]


def plan_project(
    settings: Settings,
    store: Store,
    project: int,
    base: HeadSet | None,
    promise: RiskGuarantee | None = None,
    say: Say | None = None,
) -> ProjectPlan:
    """Plan a project from its store.

    Raises `JobError` where there are no heads to start from or too few labels to tell anything.
    """
    quality = base.quality_for(settings.model) if base is not None else None
    if base is None or quality is None:
        raise JobError(f"heads for {settings.model} that predict its IoU", "none", "name a head set in USAM_HEADS")
    sampled = sampled_in_use(Registry(settings.registry_dir), project, settings)
    rows = prefer_mask_samples(store.samples(project, sampled))
    rows = [row for row in rows if quality in row.targets]
    rows = sorted(rows, key=lambda row: (row.updated_at, row.annotation, row.region))
    tasks = sorted({row.task for row in rows})
    if len(rows) < LEAST_LABELS or len(tasks) < LEAST_TASKS:
        got = f"{len(rows)} on {len(tasks)}"
        raise JobError(f"{LEAST_LABELS} labels on {LEAST_TASKS} tasks", got, "label more, then plan again")
    audits = audit_tasks(settings, project, tasks)
    held, train = ([row for row in rows if (row.task in audits) is flag] for flag in (True, False))
    seed = project_seed(settings, project)
    if len(held) >= MIN_AUDIT_OBJECTS and len(audits) >= MIN_AUDIT_TASKS and len(train) >= LEAST_LABELS:
        method = f"{len(held)} objects of {len(audits)} audit tasks"
        folds = [(_batch(train, base), _batch(held, base))]
    else:
        method = f"holding out tasks in turn, for audits are few ({len(audits)} tasks)"
        folds = _folds(_batch(rows, base), seed)
    history = _history(folds, base, quality, settings.model, seed, say)
    curve = fit_curve([count for count, _ in history], [value for _, value in history], seed=seed % 2**31)
    said, needed = _promise(held, base, quality, promise or RiskGuarantee(), len(rows) / len(tasks), settings)
    return ProjectPlan(Plan.of(curve, said, needed), history, method, len(rows), len(tasks), len(audits))


def _history(
    folds: Sequence[tuple[Batch, Batch]], base: HeadSet, quality: str, model: str, seed: int, say: Say | None
) -> list[tuple[int, float]]:
    """(labels, quality) for growing numbers of labels: in the order in which they came, and in orders by chance."""
    counts = [len(train["groups"]) for train, _ in folds]
    sizes_of = [np.unique(np.geomspace(5, count, SIZES).round().astype(int)) for count in counts]
    orders_of = [ORDERS if count <= MANY else 1 for count in counts]
    total, done = sum(len(sizes) * orders for sizes, orders in zip(sizes_of, orders_of, strict=True)), 0
    measured: list[list[tuple[int, float]]] = []
    for (train, test), count, sizes, orders in zip(folds, counts, sizes_of, orders_of, strict=True):
        for number in range(orders):
            order = _order(train["groups"], None if number == 0 else np.random.default_rng([seed, number]))
            points = [(0, _chosen(base, quality, test))]
            for size in sizes:
                inside = np.zeros(count, np.bool_)
                inside[order[:size]] = True
                fitted = fit(take(train, inside), base, model, seed)
                points.append((int(size), _chosen(fitted, quality, test)))
                done += 1
                if say is not None:
                    say(done, total)
            measured.append(points)
    if len(folds) == 1:
        return [point for points in measured for point in points]
    # other folds are other objects: only their mean tells of labels
    return [
        (round(float(np.mean([count for count, _ in points]))), float(np.mean([value for _, value in points])))
        for points in zip(*measured, strict=False)
    ]


def _order(groups: npt.NDArray[Any], rng: np.random.Generator | None) -> Indices:
    """Rows as they came, or by tasks in a random order."""
    if rng is None:
        return np.arange(len(groups))
    names = rng.permutation(np.unique(groups))
    place = {name: number for number, name in enumerate(names.tolist())}
    return np.argsort([place[name] for name in groups.tolist()], kind="stable")


def _folds(batch: Batch, seed: int) -> list[tuple[Batch, Batch]]:
    groups = np.asarray(batch["groups"])
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    parts = [np.isin(groups, part) for part in np.array_split(names, FOLDS)]
    return [(take(batch, ~part), take(batch, part)) for part in parts]


def _batch(rows: Sequence[SampleRow], base: HeadSet) -> Batch:
    batch = to_batch(list(rows))
    return {**batch, "targets": {name: batch["targets"][name] for name in batch["targets"] if name in base.names}}


def _chosen(heads: HeadSet, quality: str, batch: Batch) -> float:
    """Mean IoU of the masks that these heads choose."""
    picks = heads.score(batch["iou_token"], batch["mask_tokens"])[quality].argmax(axis=1)
    true = batch["targets"][quality][np.arange(len(picks)), picks]
    return float(np.clip(np.nanmean(true), 0, 1))


def _promise(
    held: Sequence[SampleRow], base: HeadSet, quality: str, promise: RiskGuarantee, per_task: float, settings: Settings
) -> tuple[str, int]:
    """What can be promised of masks that nobody looks at, and how many audited tasks are still needed for it.

    An estimate, by the objects that people marked in audit tasks, which stand for the pool too; `usam-backend
    pseudo-label` judges proposals, missed objects included, and has the last word.
    """
    wanted = f"IoU {promise.iou:g} for all but {promise.risk:.0%} of accepted masks"
    if not held:
        return f"{wanted}: no audit task is labelled yet", 1
    batch = to_batch(list(held))
    scores = base.score(batch["iou_token"], batch["mask_tokens"])
    row, picks = np.arange(len(held)), scores[quality].argmax(axis=1)
    gap = scores["task_gap"][row, picks] if "task_gap" in scores else None
    images = [int(group) for group in batch["groups"]]
    names = [str(number) for number in row]
    true = batch["targets"][quality][row, picks]
    audit = Candidates(names, images, scores[quality][row, picks], gap, true)
    try:
        found = calibrate(audit, audit, promise)
    except PseudoLabelError as error:
        if not error.needed:
            return f"{wanted}: {error.remedy}", 0
        labels = error.needed * per_task / max(settings.audit_share, 1e-9)
        return (
            f"{wanted}: about {error.needed} more audit tasks, some {labels:.0f} labels as they are served",
            error.needed,
        )
    return f"{wanted}: the audit labels support it, for {found.pool_share:.0%} of the masks", 0
