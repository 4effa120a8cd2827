"""Few and clean: of many candidates on an image, those that a person can take for objects.

Shapes: K candidates, h, w masks over the whole image at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import PromptError

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProposalRules:
    """What is shown of an image. Shares are of the image's area, IoUs and shares in [0, 1].

    pred_iou_thresh  candidates ranked below are dropped
    nms_iou          of two that overlap by more, the better ranked stays
    nested           of two, one of which lies inside the other by more than this share of it, the better ranked stays;
                     1 keeps parts beside wholes
    smallest, largest  the band of areas
    border           candidates that touch more of the image's four sides than this many times the square root of their
                     area are background; a square in a corner touches half of it. 1 keeps them
    most             at most so many, the best
    """

    pred_iou_thresh: float = 0.5
    nms_iou: float = 0.7
    nested: float = 0.8
    smallest: float = 0.0
    largest: float = 0.8
    border: float = 0.5
    most: int = 8

    def __post_init__(self) -> None:
        shares = (self.pred_iou_thresh, self.nms_iou, self.nested, self.smallest, self.largest, self.border)
        if not all(0 <= share <= 1 for share in shares) or self.smallest > self.largest or self.most < 1:
            raise PromptError("shares in [0, 1], smallest below largest, most above 0", str(self))


@dataclass(frozen=True, eq=False)
class Layout:
    """How K masks lie: `area` (K,) shares of the image, `border` (K,) shares of its sides, `both` (K, K) shared area,
    as a share of the image. Worked out once, it serves any number of rules."""

    area: Floats
    border: Floats
    both: Floats

    @classmethod
    def of(cls, masks: npt.NDArray[np.bool_]) -> Layout:
        """From masks (K, h, w)."""
        count, height, width = masks.shape
        flat = masks.reshape(count, height * width).astype(np.float32)
        sides = masks[:, 0].sum(1) + masks[:, -1].sum(1) + masks[:, :, 0].sum(1) + masks[:, :, -1].sum(1)
        return cls(flat.mean(1), sides / (2.0 * (height + width)), flat @ flat.T / (height * width))

    def __len__(self) -> int:
        return len(self.area)


def clean_proposals(layout: Layout, rank: Floats, rules: ProposalRules | None = None) -> Indices:
    """Rows of the candidates to show, best first.

    Parameters: `rank` (K,) predicted IoU, or any worth of showing, higher = better. Empty masks are never shown.
    Raises `PromptError` where sizes differ.
    """
    rules = rules or ProposalRules()
    if len(layout) != len(rank):
        raise PromptError(f"{len(layout)} ranks, one a mask", str(len(rank)))
    area, both = layout.area, layout.both
    fit = (rank >= rules.pred_iou_thresh) & (area > 0) & (area >= rules.smallest) & (area <= rules.largest)
    if rules.border < 1:
        fit &= layout.border <= rules.border * np.sqrt(area) * (1 + 1e-6)
    kept: list[int] = []
    for row in np.argsort(-np.asarray(rank), kind="stable").tolist():
        if len(kept) == rules.most:
            break
        if not fit[row]:
            continue
        shared = both[row, kept]
        if (shared > rules.nms_iou * (area[row] + area[kept] - shared)).any():
            continue
        if (shared > rules.nested * np.minimum(area[row], area[kept]) * (1 + 1e-6)).any():
            continue
        kept.append(row)
    return np.array(kept, np.int64)
