"""What the store hands out.

Legend: D token width; M the three multimask outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.label_studio.records import Json

Float16s = npt.NDArray[np.float16]
Float32s = npt.NDArray[np.float32]


def data_key(data: Mapping[str, Any]) -> str:
    """Digest of a task's data: another one means another image or another prompt."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Event:
    """One webhook call, as far as it is kept."""

    id: int
    project: int
    action: str
    subjects: tuple[int, ...]
    received_at: float


@dataclass(frozen=True)
class KnownTask:
    """A task as the last sync saw it."""

    id: int
    data: Json = field(repr=False)
    data_key: str
    updated_at: str
    annotations: int
    cancelled: int
    predictions: int
    labeled: bool


@dataclass(frozen=True)
class TaskChanges:
    """Ids of tasks that are new, and of known ones whose data changed."""

    new: tuple[int, ...]
    changed: tuple[int, ...]


@dataclass(frozen=True)
class KnownAnnotation:
    """An annotation as the last sync saw it."""

    id: int
    task: int
    updated_at: str
    cancelled: bool
    deleted: bool
    sampled_for: str
    used_in: int
    reason: str


@dataclass(frozen=True)
class SampleRow:
    """One labelled object as training data: tokens of the paper's single point, and what each head should
    say."""

    annotation: int
    region: str
    checkpoint: str
    updated_at: str
    task: int
    label: str
    box_only: bool
    iou_token: Float16s = field(repr=False)
    """(D,)"""
    mask_tokens: Float16s = field(repr=False)
    """(4, D)"""
    targets: dict[str, list[float]] = field(repr=False)
    """Head -> (M,) in [0, 1], NaN where it cannot be known."""

    def as_row(self, project: int) -> Json:
        """Columns of the table `samples`."""
        return {
            "project": project,
            "annotation": self.annotation,
            "region": self.region[:80],
            "checkpoint": self.checkpoint,
            "updated_at": self.updated_at,
            "task": self.task,
            "label": self.label[:200],
            "box_only": self.box_only,
            "width": len(self.iou_token),
            "iou_token": self.iou_token.astype("<f2").tobytes(),
            "mask_tokens": self.mask_tokens.astype("<f2").tobytes(),
            "targets": json.dumps(self.targets),
        }

    @classmethod
    def of_row(cls, row: Any) -> SampleRow:
        """From a row of the table `samples`."""
        return cls(
            annotation=row.annotation,
            region=row.region,
            checkpoint=row.checkpoint,
            updated_at=row.updated_at,
            task=row.task,
            label=row.label,
            box_only=row.box_only,
            iou_token=np.frombuffer(row.iou_token, "<f2").astype(np.float16),
            mask_tokens=np.frombuffer(row.mask_tokens, "<f2").reshape(4, row.width).astype(np.float16),
            targets=json.loads(row.targets),
        )


@dataclass(frozen=True)
class ProposalRow:
    """Cached proposals of one task: packed arrays, regions without scores, or the reason why there are
    none."""

    task: int
    key: str
    arrays: bytes = field(repr=False)
    regions: list[Json] = field(repr=False)
    reason: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One task's place in the queue. `acquisition`: higher = ask first; `confidence`: lower = served
    first."""

    task: int
    version: str
    acquisition: float
    confidence: float
    place: int
    is_audit: bool
    reason: str = ""


@dataclass(frozen=True)
class Counts:
    """How many tasks, of them unlabelled ones, and annotations a project has."""

    tasks: int
    unlabelled: int
    annotations: int


@dataclass(frozen=True)
class Run:
    """One run of a job. `state`: running, done, rejected, skipped, failed or interrupted. Times in seconds."""

    id: int
    project: int
    job: str
    state: str
    fingerprint: str
    done: int
    total: int
    reason: str
    details: Json
    started_at: float
    changed_at: float
    finished_at: float | None

    @classmethod
    def of_row(cls, row: Any) -> Run:
        """From a row of the table `runs`."""
        return cls(
            row.id,
            row.project,
            row.job,
            row.state,
            row.fingerprint,
            row.done,
            row.total,
            row.reason,
            json.loads(row.details),
            row.started_at,
            row.changed_at,
            row.finished_at,
        )
