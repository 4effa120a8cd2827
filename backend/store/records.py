"""The tables of the store, each with the record that is handed out of it.

Legend: D token width; M the three multimask outputs. Times are UTC seconds since 1970; Label Studio's own times stay
its strings, which are compared for equality only. A change of a table needs a step in `migrations`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import sqlalchemy as sql
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from backend.label_studio.records import Json
from backend.store.columns import Float16s, HalfFloats, JsonText, Known, Numbers
from usam.active.refinement import Gain


def data_key(data: Mapping[str, Any]) -> str:
    """Digest of a task's data: another one means another image or another prompt."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:40]


def storable_text(text: str, length: int | None = None) -> str:
    """The text as every database can hold it: without lone surrogates and NUL, `length` characters at most."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:length]


WHOLE = sql.BigInteger().with_variant(sql.Integer, "sqlite")


class Row(MappedAsDataclass, DeclarativeBase):
    """Base of the tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {int: WHOLE, str: sql.Text, float: sql.Float(), bool: sql.Boolean}

    def columns(self, **more: Any) -> Json:
        """Column -> value, for a statement; `more` in place of what the record says."""
        return {column.key: getattr(self, column.key) for column in type(self).__table__.columns} | more


RowOf = TypeVar("RowOf", bound=Row)
Key = Annotated[int, mapped_column(primary_key=True, autoincrement=False)]
Name40 = Annotated[str, mapped_column(sql.String(40))]
Name120 = Annotated[str, mapped_column(sql.String(120))]
Name200 = Annotated[str, mapped_column(sql.String(200))]
Unknown = Annotated[float, mapped_column(Known, nullable=True)]
"""NaN where it is not known."""


class About(Row):
    """What releases from before there were migrations read: they refuse what has them."""

    __tablename__ = "about"
    name: Mapped[Name40] = mapped_column(primary_key=True)
    value: Mapped[str | None]


class ProjectRow(Row):
    """A project that is looked after. `stamp`: Label Studio's creation time; `cursor`: largest task change seen;
    `served`: prediction version in use; `synced_at`: when every task was last looked at; `classes`: the labels of its
    configuration, as the last sync saw them. What is known of a project that is not `connected` any more is kept for
    when it is connected again."""

    __tablename__ = "projects"
    id: Mapped[Key]
    stamp: Mapped[Name40] = mapped_column(default="")
    cursor: Mapped[Name40] = mapped_column(default="")
    served: Mapped[Name120] = mapped_column(default="")
    synced_at: Mapped[float] = mapped_column(default=0.0)
    classes: Mapped[list[str]] = mapped_column(JsonText(list), default_factory=list)
    connected: Mapped[bool] = mapped_column(default=True)


class Event(Row):
    """One webhook call, as far as it is kept."""

    __tablename__ = "events"
    __table_args__ = (sql.Index("events_open", "handled", "project"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project: Mapped[int]
    action: Mapped[str] = mapped_column(sql.String(60))
    subjects: Mapped[tuple[int, ...]] = mapped_column(Numbers)
    received_at: Mapped[float]
    handled: Mapped[bool] = mapped_column(default=False)


class KnownTask(Row):
    """A task as the last sync saw it. `checked`: the `updated_at` at which its annotations were last compared;
    another one means they still have to be."""

    __tablename__ = "tasks"
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    id: Mapped[Key]
    data: Mapped[Json] = mapped_column(JsonText(dict), repr=False)
    data_key: Mapped[Name40]
    updated_at: Mapped[Name40]
    annotations: Mapped[int]
    cancelled: Mapped[int]
    predictions: Mapped[int]
    labeled: Mapped[bool]
    checked: Mapped[Name40] = mapped_column(default="")


@dataclass(frozen=True)
class TaskChanges:
    """Ids of tasks that are new, and of known ones whose data changed."""

    new: tuple[int, ...]
    changed: tuple[int, ...]


class KnownAnnotation(Row):
    """An annotation as the last sync saw it; kept after deletion, as the map from annotation to task. `sampled_for`:
    what its samples were made for; `used_in`: the retraining that first saw it as it is now, 0 for none; `content`: a
    digest of its regions, empty where no sync of this release has looked at it."""

    __tablename__ = "annotations"
    __table_args__ = (sql.Index("annotations_task", "project", "task"),)
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    id: Mapped[Key]
    task: Mapped[int]
    updated_at: Mapped[Name40]
    cancelled: Mapped[bool]
    deleted: Mapped[bool]
    sampled_for: Mapped[Name200]
    used_in: Mapped[int]
    reason: Mapped[str]
    content: Mapped[Name40] = mapped_column(default="")


def _of_annotation() -> sql.ForeignKeyConstraint:
    return sql.ForeignKeyConstraint(
        ["project", "annotation"], ["annotations.project", "annotations.id"], ondelete="CASCADE"
    )


class SampleRow(Row):
    """One labelled object as training data: tokens of the paper's single point, and what each head should say.

    `number` counts the samples of an annotation; `region` is an id that Label Studio does not keep unique.
    `iou_token` (D,); `mask_tokens` (4, D); `targets`: head -> (M,) in [0, 1], NaN where it cannot be known.
    """

    __tablename__ = "samples"
    __table_args__ = (_of_annotation(), sql.Index("samples_task", "project", "task"))
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    annotation: Mapped[Key]
    region: Mapped[str]
    checkpoint: Mapped[Name200] = mapped_column(primary_key=True)
    updated_at: Mapped[Name40]
    task: Mapped[int]
    label: Mapped[str]
    box_only: Mapped[bool]
    iou_token: Mapped[Float16s] = mapped_column(HalfFloats(), repr=False)
    mask_tokens: Mapped[Float16s] = mapped_column(HalfFloats(4), repr=False)
    targets: Mapped[dict[str, list[float]]] = mapped_column(JsonText(dict), repr=False)
    number: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.region, self.label = storable_text(self.region), storable_text(self.label)

    def is_whole(self, width: int) -> bool:
        """Whether its tokens are of this width, and all there; a damaged row's are not."""
        is_fit = len(self.iou_token) == self.mask_tokens.shape[1] == width and bool(self.targets)
        return is_fit and bool(np.isfinite(self.iou_token).all() and np.isfinite(self.mask_tokens).all())


class ExampleRow(Row):
    """What the objects of one annotated image look like, those that people marked and those that the model proposed
    there (`learning.examples`), packed. `updated_at` is the annotation's."""

    __tablename__ = "examples"
    __table_args__ = (_of_annotation(),)
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    annotation: Mapped[Key]
    task: Mapped[int]
    updated_at: Mapped[Name40]
    features_version: Mapped[Name200]
    arrays: Mapped[bytes] = mapped_column(repr=False)


class WorkRow(Row):
    """What an annotator changed of the masks that the prediction `version` showed on one task: objects kept as they
    were, deleted, relabelled, corrected, and added (`usam.objects.effort.Work`). `lead_s`: Label Studio's clock, NaN
    where it does not say; `at`: when it was counted; `annotator`: Label Studio's number of who did it, 0 where it does
    not say; `control`: nothing was shown, on purpose."""

    __tablename__ = "work"
    __table_args__ = (_of_annotation(),)
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    annotation: Mapped[Key]
    task: Mapped[int]
    version: Mapped[Name120]
    kept: Mapped[int]
    deleted: Mapped[int]
    relabelled: Mapped[int]
    corrected: Mapped[int]
    added: Mapped[int]
    lead_s: Mapped[Unknown]
    at: Mapped[float]
    annotator: Mapped[int] = mapped_column(default=0)
    control: Mapped[bool] = mapped_column(default=False)


_FAILED = sql.text("reason <> ''")


class ProposalRow(Row):
    """What the model says of a task whatever the heads are: packed objects and drawings of those that are shown, by
    number, or the reason why there are none. `key`: image, checkpoint and settings it was made with."""

    __tablename__ = "proposals"
    __table_args__ = (
        sql.Index("proposals_key", "project", "task", "key"),
        sql.Index("proposals_failed", "project", "task", sqlite_where=_FAILED, postgresql_where=_FAILED),
    )
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    task: Mapped[Key]
    key: Mapped[str] = mapped_column(sql.String(64))
    arrays: Mapped[bytes] = mapped_column(repr=False)
    drawings: Mapped[dict[str, Json]] = mapped_column(JsonText(dict), repr=False)
    reason: Mapped[str] = mapped_column(default="")
    made_at: Mapped[float] = mapped_column(init=False, repr=False, compare=False)


class ScoreRow(Row):
    """One task's place in the queue. `acquisition`: higher = ask first; `confidence`: lower = served first; `shown`:
    numbers of the candidates that its prediction shows; `labels`: what these are called, each once."""

    __tablename__ = "scores"
    __table_args__ = (sql.Index("scores_place", "project", "place"),)
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    task: Mapped[Key]
    version: Mapped[Name120]
    acquisition: Mapped[float]
    confidence: Mapped[float]
    place: Mapped[int]
    is_audit: Mapped[bool]
    reason: Mapped[str] = mapped_column(default="")
    shown: Mapped[tuple[int, ...]] = mapped_column(Numbers, default=())
    labels: Mapped[list[str]] = mapped_column(JsonText(list), default_factory=list)


@dataclass(frozen=True)
class Counts:
    """How many tasks, of them unlabelled ones, and annotations a project has."""

    tasks: int
    unlabelled: int
    annotations: int


class Run(Row):
    """One run of a job. `state`: running, done, rejected, skipped, failed or interrupted. `details` are for people:
    nothing is decided by them."""

    __tablename__ = "runs"
    __table_args__ = (sql.Index("runs_job", "project", "job", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project: Mapped[int]
    job: Mapped[Name40]
    state: Mapped[str] = mapped_column(sql.String(20))
    fingerprint: Mapped[str] = mapped_column(sql.String(64))
    done: Mapped[int]
    total: Mapped[int]
    reason: Mapped[str]
    details: Mapped[Json] = mapped_column(JsonText(dict))
    started_at: Mapped[float]
    changed_at: Mapped[float]
    finished_at: Mapped[float | None]


class SelectionGain(Row):
    """What choosing masks by the predicted IoU of the head set `version` gained in true IoU, as the retraining `run`
    measured it: the mean with its 95 % interval over images."""

    __tablename__ = "selection_gains"
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    version: Mapped[Name120] = mapped_column(primary_key=True)
    run: Mapped[int]
    value: Mapped[Unknown]
    low: Mapped[Unknown]
    high: Mapped[Unknown]
    objects: Mapped[int]
    images: Mapped[int]

    @property
    def gain(self) -> Gain:
        """The measurement alone."""
        return Gain(self.value, self.low, self.high, self.objects, self.images)


class RefinementState(Row):
    """What one refinement of the pool did so far, what it gained where people have labelled since, whether it is
    suspended, and what was asked for. Gains are in IoU, the predicted one a mean over `kept`."""

    __tablename__ = "refinement_states"
    project: Mapped[Key] = mapped_column(init=False, repr=False, compare=False)
    action: Mapped[Name40] = mapped_column(primary_key=True)
    run: Mapped[int]
    suspended: Mapped[bool]
    budget: Mapped[float]
    share_of_cost: Mapped[float]
    threshold: Mapped[Unknown]
    considered: Mapped[int]
    chosen: Mapped[int]
    acted: Mapped[int]
    kept: Mapped[int]
    predicted_gain: Mapped[float]
    seconds: Mapped[float]
    gain_value: Mapped[Unknown]
    gain_low: Mapped[Unknown]
    gain_high: Mapped[Unknown]
    gain_objects: Mapped[int | None]
    gain_images: Mapped[int | None]
    encode_s: Mapped[Unknown]
    decode_s: Mapped[Unknown]
    asked: Mapped[Any] = mapped_column(JsonText)

    @classmethod
    def of(cls, action: str, run: int, figures: Mapping[str, Any]) -> RefinementState:
        """From what a ranking reports of an action."""
        total, gain, cost = (figures.get(name) or {} for name in ("total", "true_gain", "cost"))
        nan = math.nan
        return cls(
            action=action,
            run=run,
            suspended=bool(figures.get("suspended")),
            budget=float(figures.get("budget", 0.0)),
            share_of_cost=float(figures.get("share_of_cost", 0.0)),
            threshold=nan if figures.get("threshold") is None else float(figures["threshold"]),
            considered=int(figures.get("considered", 0)),
            chosen=int(figures.get("chosen", 0)),
            acted=int(total.get("acted", 0)),
            kept=int(total.get("kept", 0)),
            predicted_gain=float(total.get("predicted_gain", 0.0)),
            seconds=float(total.get("seconds", 0.0)),
            gain_value=float(gain.get("value", nan)),
            gain_low=float(gain.get("low", nan)),
            gain_high=float(gain.get("high", nan)),
            gain_objects=gain.get("objects"),
            gain_images=gain.get("images"),
            encode_s=float(cost.get("encode_s", nan)),
            decode_s=float(cost.get("decode_s", nan)),
            asked=figures.get("asked"),
        )

    def figures(self) -> Json:
        """As a ranking reports it; what is not known is left out."""
        found: Json = {name: getattr(self, name) for name in ("budget", "considered", "share_of_cost", "chosen")}
        found |= {"threshold": None if math.isnan(self.threshold) else self.threshold, "suspended": self.suspended}
        found["total"] = {name: getattr(self, name) for name in ("acted", "kept", "predicted_gain", "seconds")}
        if self.gain_objects is not None:
            gain = Gain(self.gain_value, self.gain_low, self.gain_high, self.gain_objects, self.gain_images or 0)
            found["true_gain"] = gain.figures()
        if not math.isnan(self.encode_s):
            found["cost"] = {"encode_s": self.encode_s, "decode_s": self.decode_s}
        return found | {"asked": self.asked}


class VerdictRow(Row):
    """What the gate said of a candidate in the retraining `run`; errors are mean squared, lower = better."""

    __tablename__ = "verdicts"
    run: Mapped[Key]
    project: Mapped[int] = mapped_column(index=True)
    promote: Mapped[bool]
    method: Mapped[str]
    objects: Mapped[int]
    tasks: Mapped[int]
    champion_error: Mapped[Unknown]
    candidate_error: Mapped[Unknown]
    share: Mapped[Unknown]
    candidate: Mapped[Name120]
    judged_at: Mapped[float]


class Lease(Row):
    """Who does what only one may do at a time. A lease that is not renewed ends by itself."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(sql.String(80), primary_key=True)
    holder: Mapped[Name120]
    until: Mapped[float]
