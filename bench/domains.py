"""nano-m on the held-out pictures of every domain of the photographs, beside the weights of the release before.

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

NEW, OLD = "nano-m", "nano-m-1"
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
    old, new = (
        measure_domains(load_nano(find(name).config, checkpoint_path(name)), open_dataset("photographs", root))
        for name in (OLD, NEW)
    )
    return rows_of(new, old)


def rows_of(new: Sequence[DomainValues], old: Sequence[DomainValues]) -> list[Row]:
    """The rows of two measurements of the same objects."""
    from usam.research.nano.domains import FIGURES, domain_intervals, gain, mean_intervals

    gained = gain(new, old)
    rows = []
    for now, before, more in zip(new, old, gained, strict=True):
        measured = (domain_intervals(now), domain_intervals(before), domain_intervals(more))
        for figure, value, last, difference in zip(FIGURES, *measured, strict=True):
            note = (
                f"[{value.low:.3f}, {value.high:.3f}]; {OLD}: {last}; gain {difference}; "
                f"{len(now.groups)} objects of {now.images} images or series"
            )
            rows.append(Row(f"{NEW}, {now.name}, {figure}", value.value, "IoU", note=note))
    overall = (mean_intervals(new), mean_intervals(old), mean_intervals(gained))
    for figure, value, last, difference in zip(FIGURES, *overall, strict=True):
        images = sum(domain.images for domain in new)
        note = f"[{value.low:.3f}, {value.high:.3f}]; {OLD}: {last}; {images} images or series"
        rows.append(Row(f"{NEW}, mean over {len(new)} domains, {figure}", value.value, "IoU", note=note))
        note = f"[{difference.low:.3f}, {difference.high:.3f}]"
        rows.append(
            Row(
                f"{NEW} over {OLD}, mean over {len(new)} domains, {figure}",
                difference.value,
                "IoU",
                OLD,
                GAIN,
                note=note,
            )
        )
    return rows
