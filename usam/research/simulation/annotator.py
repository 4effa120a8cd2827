"""A scripted annotator: accepts what is good enough, clicks where it is not, and draws what clicks do not settle.

Legend: n objects answered. IoUs in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from usam.errors import SimulationError
from usam.research.simulation.cost import CostModel
from usam.research.simulation.labelled_set import LabelledSet

Float64s = npt.NDArray[np.float64]
WAYS = ("accepted", "chosen", "clicked", "drawn")


@dataclass(frozen=True)
class Answers:
    """What the annotator did: `iou` of the mask that was kept, `clicks`, `seconds`, and `way`, an index into `WAYS`;
    all (n,).
    """

    iou: Float64s
    clicks: npt.NDArray[np.int64]
    seconds: Float64s
    way: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Annotator:
    """Works through an image's objects, each by the first of these that gives an IoU of at least `threshold`:

    accepted   the mask that is shown: one look, no click
    chosen     the best of the three masks: a look and a click
    clicked    the mask after the fewest corrective clicks that do: a look and these clicks, beyond the point that made
               the mask that is shown
    drawn      a polygon, right by definition: a look, all the clicks that did not do, and the polygon

    Raises `SimulationError` unless 0 < threshold <= 1.
    """

    threshold: float = 0.8
    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise SimulationError("a threshold in (0, 1]", str(self.threshold), "0.8 is the usual one")

    def answer(self, labelled: LabelledSet, rows: npt.NDArray[np.int64], shown: npt.NDArray[np.int64]) -> Answers:
        """Answer the objects `rows` (n,), of which the outputs `shown` (n,), 0..2 of the three, are on the screen."""
        offered = labelled.iou[rows].astype(np.float64)
        best = offered.max(axis=1)
        seen = offered[np.arange(len(rows)), shown]
        clicked = labelled.clicked[rows].astype(np.float64)
        good = clicked >= self.threshold
        first = good.argmax(axis=1)
        way = np.select([seen >= self.threshold, best >= self.threshold, good.any(axis=1)], [0, 1, 2], 3)
        more = np.array(labelled.clicks, np.int64) - 1
        after = clicked[np.arange(len(rows)), first]
        clicks = np.select([way == 0, way == 1, way == 2], [0, 1, more[first]], more[-1] + self.cost.polygon_clicks)
        seconds = self.cost.look_s + clicks * self.cost.click_s
        seconds = np.where(way == 3, self.cost.look_s + more[-1] * self.cost.click_s + self.cost.polygon_s, seconds)
        kept = np.select([way == 0, way == 1, way == 2], [seen, best, after], 1.0)
        return Answers(kept, clicks.astype(np.int64), seconds, way.astype(np.int64))
