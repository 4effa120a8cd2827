"""What a person's work on a mask costs, in clicks and in seconds.

Sources of the seconds, all medians or means of crowd workers at the task in question:

    look      1.6 s to say whether a proposed outline is right: Papadopoulos et al., CVPR 2016, arXiv 1602.08405
    click     2.4 s to find an object and click on it: Bearman et al., ECCV 2016, arXiv 1506.02106
    polygon  79.2 s to draw an object: Lin et al., ECCV 2014, arXiv 1405.0312 (22 worker hours for 1,000 objects)

They come from three studies with other people and other pictures than yours: orders of strategies hardly depend on
them, absolute hours do. Measure your own and say so.
"""

from __future__ import annotations

from dataclasses import dataclass

from usam.errors import SimulationError


@dataclass(frozen=True)
class CostModel:
    """Seconds for a look at a proposed mask, for a click, and for drawing a whole polygon.

    A polygon counts as so many clicks as would take that long. Raises `SimulationError` unless all are above zero.
    """

    look_s: float = 1.6
    click_s: float = 2.4
    polygon_s: float = 79.2

    def __post_init__(self) -> None:
        if min(self.look_s, self.click_s, self.polygon_s) <= 0:
            raise SimulationError("seconds above 0 for a look, a click and a polygon", str(self), "measure your own")

    @property
    def polygon_clicks(self) -> int:
        """Clicks that a polygon counts as."""
        return max(1, round(self.polygon_s / self.click_s))
