"""Which of an image's candidates are shown, as what: the same for `/predict` and the pool.

Before a project has learnt what it wants, few and clean: no nested, background or whole-image masks, the best by
predicted IoU. After that, what is likely enough to be wanted, by a threshold that costs people least. What other models
marked is shown as it is, without near-copies.

Legend: K candidates of one image; C classes of the project.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.inference.model import CANDIDATES, ObjectLooks, ProposalGrid
from backend.settings import Settings
from usam.objects.showing import choose_rows
from usam.predictor.clean_proposals import Layout, ProposalRules, clean_proposals

if TYPE_CHECKING:
    from usam.objects.project_heads import ObjectSizes, ProjectHeads

Floats = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
GRIDS = (8, 12, 16)
"""Points a side of the grids to choose from once it is known how small a project's objects are."""
SPACING = 1.25
MOST_CANDIDATES = 150
GIVEN = 20
"""Most objects that are shown of what another model marked on an image."""
LEAST_LABEL = 0.5
"""Probability from which a learnt label is shown: one that is more likely wrong than right is left to people."""


def grid_of(settings: Settings, learnt: ProjectHeads | None) -> ProposalGrid:
    """How densely an image is looked at: as the settings say where they say it, else so that points lie no farther
    apart than `SPACING` sides of the middle marked object, and with room for as many as an image has."""
    side, most = settings.points_per_side, max(CANDIDATES, settings.max_regions)
    tiles = max(settings.tiles, 1)
    if learnt is None or learnt.sizes is None or "points_per_side" in settings.model_fields_set:
        return ProposalGrid(side, most, tiles)
    many = int(min(max(most, 3 * learnt.sizes.many), MOST_CANDIDATES))
    if learnt.grid is not None and not settings.tiles:
        return ProposalGrid(learnt.grid.points_per_side, many, learnt.grid.tiles)
    return ProposalGrid(dense_enough(side, learnt.sizes), many, tiles)


def dense_enough(points_per_side: int, sizes: ObjectSizes) -> int:
    """Points a side, at least these, that lie close enough for objects of these sizes."""
    needed = 1 / (SPACING * max(sizes.side, 1e-3))
    return max(points_per_side, next((grid for grid in GRIDS if grid >= needed), GRIDS[-1]))


@dataclass(frozen=True, eq=False)
class ShownObjects:
    """What is shown of K candidates.

    rows         those shown, best first
    distinct     those that are objects of their own, shown or not, best first: no parts or copies of better ones
    wanted       (K,) probability that the project wants each; NaN where that is not learnt
    labels       (K,) the likeliest class of each, None where it is not learnt or not likely enough
    label_score  (K,) probability of the likeliest class; NaN where it is not learnt
    """

    rows: IntArray
    wanted: npt.NDArray[np.float64]
    labels: list[str | None]
    label_score: npt.NDArray[np.float64]
    distinct: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def label(self, row: int, given: str | None = None) -> tuple[str | None, float | None]:
        """The label of a candidate and how sure what was learnt is of it; one that came with its prompt goes first."""
        if given is not None or self.labels[row] is None:
            return given, None
        return self.labels[row], float(self.label_score[row])


def choose_shown(
    layout: Layout,
    looks: ObjectLooks,
    iou: Floats,
    settings: Settings,
    learnt: ProjectHeads | None = None,
    *,
    given: bool = False,
) -> ShownObjects:
    """What to show of K candidates with these predicted IoUs (K,).

    `learnt`: what the project's labels taught; it says nothing where it was taught on other features. `given`: whether
    another model marked the candidates.
    """
    wanted, label_score, labels = judged(looks, learnt)
    if given:
        rank = np.asarray(iou, np.float64)
        rules = ProposalRules(0.0, settings.nms_iou, 1.0, 0.0, 1.0, 1.0, max(len(layout), 1))
        distinct = clean_proposals(layout, rank, rules)
        rows = distinct[rank[distinct] >= settings.pred_iou_thresh][:GIVEN]
    else:
        rows, distinct = choose_rows(
            layout,
            iou,
            wanted,
            learnt.threshold.value if learnt is not None else 0.0,
            pred_iou_thresh=settings.pred_iou_thresh,
            nms_iou=settings.nms_iou,
            most=settings.max_regions,
            most_wanted=settings.max_regions if "max_regions" in settings.model_fields_set else MOST_CANDIDATES,
        )
    return ShownObjects(rows, wanted, labels, label_score, distinct)


def judged(
    looks: ObjectLooks, learnt: ProjectHeads | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str | None]]:
    """Of K objects: probability of being wanted and of the likeliest class, NaN where it is not learnt, and that class
    where it is likely enough."""
    count = len(looks.shapes)
    nothing = np.full(count, np.nan)
    if learnt is None or not count or looks.version != learnt.features_version:
        return nothing, nothing, [None] * count
    wanted, classes = learnt.judge(looks.features, looks.shapes)
    if np.isnan(classes).any():
        return wanted, nothing, [None] * count
    likeliest, score = classes.argmax(1), classes.max(1)
    labels = [
        learnt.classes[index] if value >= LEAST_LABEL else None for index, value in zip(likeliest, score, strict=True)
    ]
    return wanted, score, labels
