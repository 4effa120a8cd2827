"""Rules of showing proposals, chosen by the work that they would have left on labelled images.

Shapes: K candidates and T wanted objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.objects.effort import Prices, Work, outline_work
from usam.predictor.clean_proposals import Layout, ProposalRules, clean_proposals

Floats = npt.NDArray[np.floating[Any]]
TODAY = ProposalRules(nested=1.0, largest=1.0, border=1.0, most=20)
"""What the service has shown so far: everything above the threshold that is no near-copy, at most 20."""


@dataclass(frozen=True, eq=False)
class LabelledProposals:
    """A finished task: its candidates' layout and `rank` (K,), and `overlap` (K, T), their IoU with the wanted objects.

    Candidates should be more than are shown: made at a low threshold, with little suppression and no cap.
    """

    layout: Layout
    rank: Floats
    overlap: Floats


def work_left(images: Iterable[LabelledProposals], rules: ProposalRules) -> Work:
    """The work that these rules would have left in all images (`outline_work`)."""
    total = Work()
    for image in images:
        total += outline_work(image.overlap[clean_proposals(image.layout, image.rank, rules)])
    return total


def rule_choices(images: Sequence[LabelledProposals], base: ProposalRules) -> Iterator[ProposalRules]:
    """What is tried: thresholds, suppression, nesting, caps, and a band of sizes around the labelled objects'."""
    sizes = [float(image.layout.area[row]) for image in images for row in np.flatnonzero((image.overlap >= 0.5).any(1))]
    low, high = (min(sizes) / 2, min(1.0, max(sizes) * 2)) if sizes else (base.smallest, base.largest)
    bands = {(base.smallest, base.largest), (low, high)}
    for threshold, nms, nested, most, band in product(
        (0.3, 0.5, 0.6, 0.7), (0.5, 0.7), (0.8, 1.0), (1, 3, 8, 20, 100), sorted(bands)
    ):
        yield ProposalRules(threshold, nms, nested, *band, base.border if high < 0.5 else 1.0, most)


def choose_rules(images: Sequence[LabelledProposals], base: ProposalRules | None = None) -> tuple[ProposalRules, Work]:
    """The rules of least work on labelled images, and that work; `base` where none is better.

    Raises `TrainingError` without images.
    """
    if not images:
        raise TrainingError("at least one labelled image", "none", "label an image")
    base, prices = base or ProposalRules(), Prices()
    best, least = base, work_left(images, base)
    for rules in rule_choices(images, base):
        work = work_left(images, rules)
        if work.seconds(prices) < least.seconds(prices) - 1e-9:
            best, least = rules, work
    return best, least
