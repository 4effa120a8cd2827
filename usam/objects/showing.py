"""Which of an image's candidates are shown, before and after a project has learnt what it wants.

Shapes: K candidates of one image.

Before, few and clean: no nested, background or whole-image masks, the best by predicted IoU. After, what is likely
enough to be wanted; of two that overlap the likelier one stays, not the one of the better outline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.predictor.clean_proposals import Layout, ProposalRules, clean_proposals

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]

LEAST_WANTED = 0.4
"""Predicted IoU from which on a wanted object is shown: a poor outline of the right thing is work too."""
CLOSE_UP = 0.75
"""`ProposalRules.border` where nothing else is left to show: a thing seen from close by touches much of the sides."""


def choose_rows(
    layout: Layout,
    iou: Floats,
    wanted: Floats,
    threshold: float,
    *,
    pred_iou_thresh: float = 0.5,
    nms_iou: float = 0.7,
    most: int = 8,
    most_wanted: int = 150,
) -> tuple[Indices, Indices]:
    """The rows shown of K candidates, and those that are objects of their own, shown or not; best first.

    Parameters: predicted `iou` (K,); probability of being `wanted` (K,), NaN where that is not learnt, from `threshold`
    on shown, `most_wanted` at most; before that is learnt from `pred_iou_thresh` on, `most` at most.
    """
    rank, least = np.asarray(iou, np.float64), pred_iou_thresh
    count = max(len(layout), 1)
    if not np.isnan(wanted).any():
        rules = ProposalRules(0.0, nms_iou, largest=1.0, border=1.0, most=count)
        good = rank >= min(LEAST_WANTED, pred_iou_thresh)
        rank, least, most = (good + wanted) / 2, (1 + threshold) / 2, most_wanted  # poor outlines come last
    else:
        rules = ProposalRules(0.0, nms_iou, most=count)
    distinct = clean_proposals(layout, rank, rules)
    rows = distinct[rank[distinct] >= least][:most]
    if not len(rows) and rules.border < CLOSE_UP:
        distinct = clean_proposals(layout, rank, replace(rules, border=CLOSE_UP))
        rows = distinct[rank[distinct] >= least][:most]
    return rows, distinct
