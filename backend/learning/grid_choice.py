"""How densely a project's images are looked at, where its objects are small: chosen by the work that each way would
have left on labelled images.

A denser grid, and more so a second pass over parts of an image, finds smaller objects, shows more for nothing and takes
longer. So it must pay: each is taken where it leaves clearly less work than the cheaper ones. What is shown there is
chosen by what the other images taught: heads know the candidates that taught them better than those of another grid.
What a grid does not find is priced as drawn by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import ITEM_ERRORS
from backend.inference.candidates import propose
from backend.inference.model import ProposalGrid
from backend.inference.scheduler import finish
from backend.inference.shown import choose_shown, grid_of
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Annotation
from backend.label_studio.shapes import masks_on
from backend.learning.examples import overlaps_of
from backend.learning.project_labels import ProjectLabels
from backend.learning.samples import marked_objects
from backend.resources import Resources
from backend.settings import Settings
from backend.store.records import KnownTask, SampleRow
from usam.objects.effort import Prices, Work, outline_work
from usam.objects.project_heads import ChosenGrid

if TYPE_CHECKING:
    from usam.objects.project_heads import ProjectHeads

LOOKED_AT = 6
"""Labelled images, half of them all at most, on which grids are compared."""
PARTS = ProposalGrid(12, 0, 2)
"""The second pass that is tried: 2 x 2 parts, and points a side in each and on the whole."""
GIVEN_UP_AFTER = 3
"""Images after which a way that leaves no less work than a cheaper one is tried no further."""
LEAST_GAIN = 0.05
"""Share of the work that a dearer way must save."""
Progress = Callable[[int, int], None]
Relearn = Callable[[Collection[int]], "ProjectHeads | None"]
"""What labels teach without those of some tasks."""


def with_grid(
    resources: Resources,
    project_id: int,
    learnt: ProjectHeads,
    in_use: Callable[[], ProjectHeads | None],
    rows: Sequence[SampleRow],
    relearn: Relearn,
    on_progress: Progress | None = None,
) -> ProjectHeads:
    """What was learnt, with the grid that it should be shown by, compared on the tasks of `rows` that were labelled
    last. Nothing is tried where objects are large, where the settings name a grid, or where too little is left to learn
    from without these tasks; what those `in_use` chose stays until there are twice as many labelled tasks.

    Raises `LabelStudioError` where Label Studio does not answer.
    """
    settings = resources.settings
    if learnt.sizes is None or settings.tiles or "points_per_side" in settings.model_fields_set:
        return learnt
    grids = grids_to_try(settings, learnt)
    if len(grids) == 1:
        return learnt
    tasks = {row.task: row.updated_at for row in sorted(rows, key=lambda row: row.updated_at)}
    before = in_use()
    known = before.figures.get("grid_tasks", 0.0) if before is not None and before.grid is not None else 0.0
    if before is not None and len(tasks) < 2 * known:
        kept = {name: value for name, value in before.figures.items() if name.startswith("grid_")}
        return replace(learnt, grid=before.grid, figures={**learnt.figures, **kept})
    newest = sorted(tasks, key=lambda task: tasks[task], reverse=True)[: min(LOOKED_AT, len(tasks) // 2)]
    others = relearn(newest) if newest else None
    if others is None or others.selector is None:
        return learnt
    seconds = compare_grids(resources, project_id, newest, grids, others, on_progress)
    if not seconds:
        return learnt
    best = cheapest_good(seconds)
    chosen = grids[best]
    figures = {"grid_tasks": float(len(tasks)), "grid_work": seconds[best], "grid_work_before": seconds[0]}
    return replace(learnt, grid=ChosenGrid(chosen.points_per_side, chosen.tiles), figures={**learnt.figures, **figures})


def grids_to_try(settings: Settings, learnt: ProjectHeads) -> list[ProposalGrid]:
    """The settings' grid, the one that the size of marked objects asks for, and a second pass, the cheapest first; the
    first alone where objects are large."""
    sized = grid_of(settings, replace(learnt, grid=None))
    if sized.points_per_side <= settings.points_per_side:
        return [sized]
    return [replace(sized, points_per_side=settings.points_per_side), sized, replace(PARTS, most=sized.most)]


def cheapest_good(seconds: Sequence[float]) -> int:
    """Which of several ways to take, the cheapest first, by the work that each leaves.

    >>> cheapest_good([100, 99, 80]), cheapest_good([100, 90, 89]), cheapest_good([0, 0])
    (2, 1, 0)
    """
    best = 0
    for number, value in enumerate(seconds):
        if value < (1 - LEAST_GAIN) * seconds[best]:
            best = number
    return best


def compare_grids(
    resources: Resources,
    project_id: int,
    tasks: Sequence[int],
    grids: Sequence[ProposalGrid],
    learnt: ProjectHeads,
    on_progress: Progress | None = None,
) -> list[float]:
    """Seconds of work that each grid, the cheapest first, would have left in these tasks, infinite where it was given
    up on the way; nothing where no task's image can be had: such tasks are left out."""
    labels = ProjectLabels.of(resources, project_id, tasks)
    controls = parse_config(labels.label_config)
    tried, seconds, looked_at = list(range(len(grids))), np.zeros(len(grids)), 0
    for number, task in enumerate(labels.order):
        if on_progress is not None:
            on_progress(number, len(labels.order))
        if looked_at == GIVEN_UP_AFTER:
            tried = [k for k in tried if k == 0 or seconds[k] < seconds[:k].min()]
        now = [grids[k] for k in tried]
        try:
            works = _works(resources, controls, labels.tasks[task], labels.annotations[task][-1], now, learnt)
        except ITEM_ERRORS:
            continue
        seconds[tried] += [work.seconds(Prices.by_hand()) for work in works]
        looked_at += 1
    seconds[np.setdiff1d(np.arange(len(grids)), tried)] = np.inf
    return [float(each) for each in seconds] if looked_at else []


def _works(
    resources: Resources,
    controls: LabelConfig,
    task: KnownTask,
    annotation: Annotation,
    grids: Sequence[ProposalGrid],
    learnt: ProjectHeads,
) -> list[Work]:
    model, settings = resources.model, resources.settings
    source = resources.source(resources.images.fetch_bytes(controls.image_value(task.data), task.id), settings.model)
    embedding = source.encoded_by(model)
    regions = marked_objects(masks_on(controls.image_name, annotation.result), embedding.image_hw)
    works = []
    for grid in grids:
        found = finish(propose(model, embedding, (), None, "predicted-iou", settings, grid, source.read_pixels))
        rows = choose_shown(found.layout, found.looks, found.objects.iou, settings, learnt).rows
        works.append(outline_work(overlaps_of(found.objects.logits[rows] > 0, regions)))
    return works
