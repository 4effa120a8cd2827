"""nano-m and nano-l on the held-out pictures of every domain of the photographs, beside the weights of release 1.

Objects over 0.1 % of their image, the largest 10 of each. Needs the labelled sets (USAM_SHARED names the folder that
holds `data`); without them there is nothing to measure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench.rows import Row

if TYPE_CHECKING:
    from usam.research.nano.domains import DomainValues

NEW, OLD = ("nano-m", "nano-l"), "release 1 of nano-m"
OLD_MEANS = (0.530, 0.456, 0.581, 0.693)
"""Means over the domains of the weights of 0.1.0, measured by this topic while they were here, as the figures go."""
GAIN = ">= 0.08"


def run() -> list[Row]:
    """Mean IoU of each domain and over all of them, and what this release gained."""
    from usam.checkpoints.nano import load_nano
    from usam.checkpoints.registry import checkpoint_path, find
    from usam.research.datasets import open_dataset
    from usam.research.nano.domains import measure_domains

    shared = os.environ.get("USAM_SHARED", "")
    if not shared:
        return []
    torch.set_num_threads(1)
    root = Path(shared) / "data" / "photographs"
    medium, large = (
        measure_domains(load_nano(find(name).config, checkpoint_path(name)), open_dataset("photographs", root))
        for name in NEW
    )
    return rows_of(medium, large)


def rows_of(medium: Sequence[DomainValues], large: Sequence[DomainValues]) -> list[Row]:
    """The rows of two measurements of the same objects, the second beside the first."""
    from usam.research.nano.domains import FIGURES, domain_intervals, gain, mean_intervals

    rows = []
    for name, measured in zip(NEW, (medium, large), strict=True):
        for domain in measured:
            for figure, value in zip(FIGURES, domain_intervals(domain), strict=True):
                of = f"{len(domain.groups)} objects of {domain.images} images or series"
                note = f"[{value.low:.3f}, {value.high:.3f}]; {of}"
                rows.append(Row(f"{name}, {domain.name}, {figure}", value.value, "IoU", note=note))
        mean, images = f"mean over {len(measured)} domains", sum(domain.images for domain in measured)
        for figure, value, old in zip(FIGURES, mean_intervals(measured), OLD_MEANS, strict=True):
            note = f"[{value.low:.3f}, {value.high:.3f}]; {images} images or series"
            rows.append(Row(f"{name}, {mean}, {figure}", value.value, "IoU", note=note))
            gained = f"{name} over {OLD}, {mean}, {figure}"
            rows.append(
                Row(gained, value.value - old, "IoU", OLD, GAIN, note=f"{OLD}: {old}, measured when it shipped")
            )
    for figure, more in zip(FIGURES, mean_intervals(gain(large, medium)), strict=True):
        note = f"[{more.low:.3f}, {more.high:.3f}], paired"
        rows.append(
            Row(f"{NEW[1]} over {NEW[0]}, mean over {len(large)} domains, {figure}", more.value, "IoU", note=note)
        )
    return rows
