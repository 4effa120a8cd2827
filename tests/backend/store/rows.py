"""Tasks, annotations, samples and places in the queue, as small as they can be."""

from __future__ import annotations

import numpy as np

from backend.label_studio.records import Annotation, Task
from backend.store.records import SampleRow, ScoreRow


def task(number: int, updated: str = "t1", image: str = "a.png", annotations: int = 0) -> Task:
    return Task(number, {"image": f"{number}-{image}"}, updated, annotations, is_labeled=annotations > 0)


def annotation(number: int, on: int, updated: str = "t1") -> Annotation:
    return Annotation(number, on, updated, [])


def sample(of: int, on: int, region: str = "r", updated: str = "t1") -> SampleRow:
    tokens = np.arange(6, dtype=np.float16)
    return SampleRow(of, region, "nano-s", updated, on, "A", False, tokens, np.stack([tokens] * 4), {"iou": [0.5] * 3})


def score(number: int, place: int) -> ScoreRow:
    return ScoreRow(number, "v", 1.0 - place, 0.5, place, False, "why")
