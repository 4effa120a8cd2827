"""What was accepted without a person, by which right, and what became of it: one folder for each time.

    <folder>/<project>/<run>/record.json   promise, calibration, its labels, each acceptance, state
                             coco.json     the masks (see `mask_export`)
                             masks/*.png

The record is written before Label Studio hears of anything, so that what a killed run left can be undone. In Label
Studio each accepted region carries a mark in `meta`, with a digest of its value: a region that a person has changed no
longer fits its mark and counts as that person's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from backend.errors import StoreError, reason_of
from backend.label_studio.records import Json
from backend.label_studio.shapes import MASK_TYPES
from backend.settings import Settings
from backend.store.kept_twice import DAMAGED, copy_of, make_folder, read_either, write_twice
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Calibration, Candidates

State = Literal["planned", "written", "withdrawn", "undone"]
MARK = "accepted_by"
ACCEPTED_VERSION = re.compile(r"[A-Za-z0-9._-]+\+([0-9a-f]{12}|no-heads)\.pseudo-\d+")
"""Versions of predictions that are accepted masks."""
RECORD_FILE = "record.json"


@dataclass(frozen=True)
class PseudoLabel:
    """One accepted mask: object `number` of a task, the ids of its regions, and what it was judged by."""

    task: int
    number: int
    regions: tuple[str, ...]
    predicted_iou: float
    quality: float


@dataclass(frozen=True)
class PseudoLabelRun:
    """One time that masks were accepted. `labels` are the audit labels calibrated on, as columns; `last_label` is the
    newest annotation among them; `drift` is what the watch said last."""

    run: int
    version: str
    state: State
    as_annotations: bool
    fingerprint: str
    calibration: Calibration
    labels: dict[str, list[Any]] = field(repr=False)
    last_label: int
    masks: tuple[PseudoLabel, ...] = field(repr=False)
    drift: Json = field(default_factory=dict)

    @property
    def tasks(self) -> list[int]:
        """Tasks with an accepted mask."""
        return sorted({one.task for one in self.masks})

    def calibrated_on(self) -> Candidates:
        """The audit labels that the threshold comes from."""
        columns = self.labels
        gap = columns.get("task_gap")
        return Candidates(
            columns["names"],
            columns["images"],
            np.array(columns["predicted_iou"], np.float64),
            None if gap is None else np.array(gap, np.float64),
            np.array(columns["true_iou"], np.float64),
            columns["audited"],
        )


def columns_of(audit: Candidates) -> dict[str, list[Any]]:
    """Audit labels as a record keeps them."""
    arrays = {"predicted_iou": audit.predicted_iou, "task_gap": audit.task_gap, "true_iou": audit.true_iou}
    found: dict[str, list[Any]] = {name: array.tolist() for name, array in arrays.items() if array is not None}
    return {"names": list(audit.names), "images": list(audit.images), "audited": list(audit.audited), **found}


class PseudoLabelStore:
    """The records under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, settings: Settings) -> PseudoLabelStore:
        """Those of a service with these settings."""
        return cls(settings.data_dir / "pseudo_labels")

    def folder_of(self, project: int, run: int) -> Path:
        """Where the record and masks of a run are."""
        return self.folder / str(int(project)) / str(int(run))

    def put(self, project: int, record: PseudoLabelRun) -> None:
        """Write a record, in place of an earlier one of the same run. Raises `StoreError` where it cannot be."""
        folder = self.folder_of(project, record.run)
        content = json.dumps({**asdict(record), "calibration": record.calibration.as_record()}, indent=1)
        try:
            make_folder(folder)
            write_twice(folder / RECORD_FILE, content.encode())
        except OSError as error:
            raise StoreError(f"room and rights to write {folder}", str(error), "free space or correct them") from error

    def change(self, project: int, record: PseudoLabelRun, state: State, drift: Json | None = None) -> PseudoLabelRun:
        """Write a record with another state; returns it."""
        changed = replace(record, state=state, drift=record.drift if drift is None else drift)
        self.put(project, changed)
        return changed

    def records(self, project: int) -> list[PseudoLabelRun]:
        """All records of a project, oldest first. Raises `StoreError` on one that cannot be read."""
        found = []
        for path in self._paths(project):
            try:
                found.append(read_either(path, _parse))
            except (OSError, ValueError) as error:
                raise StoreError(f"a readable {path}", str(error), "run `usam-backend repair`") from error
        return sorted(found, key=lambda record: record.run)

    def repair(self, project: int) -> list[str]:
        """Set aside the records that cannot be read; returns a line each. What they accepted stays in Label Studio."""
        lines = []
        for path in self._paths(project):
            try:
                read_either(path, _parse)
            except (OSError, ValueError) as error:
                for damaged in (path, copy_of(path)):
                    if damaged.exists():
                        os.replace(damaged, damaged.with_name(damaged.name + ".damaged"))
                lines.append(f"{path} set aside: {error}; its promise is not watched any more")
        return lines

    def projects(self) -> list[int]:
        """Projects that have a folder here. Raises `StoreError` where that cannot be told."""
        return sorted(int(path.name) for path in _inside(self.folder) if path.name.isdecimal())

    def _paths(self, project: int) -> list[Path]:
        """Records, those of which only the copy is left too. Raises `StoreError` where that cannot be told."""
        runs = _inside(self.folder / str(int(project)))
        names = (path for run in runs for path in _inside(run) if path.name.startswith(RECORD_FILE))
        return sorted({path.with_name(RECORD_FILE) for path in names if path.suffix != DAMAGED})

    def standing(self, project: int) -> PseudoLabelRun | None:
        """The newest record whose masks are in use, also after its promise was withdrawn."""
        return next((one for one in reversed(self.records(project)) if one.state in ("written", "withdrawn")), None)


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, nothing where it is none. Raises `StoreError` where it cannot be read: what is not seen
    would count as not accepted."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"a readable {folder}", error.strerror or str(error), "correct its rights") from error


def _parse(content: bytes) -> PseudoLabelRun:
    """Raises `ValueError`."""
    try:
        record = TypeAdapter(PseudoLabelRun).validate_json(content)
        if record.labels:
            record.calibrated_on()
    except (ValueError, KeyError, TypeError, PseudoLabelError) as error:
        raise ValueError(reason_of(error)) from None
    return record


# marks


def with_provenance(region: Mapping[str, Any], version: str) -> Json:
    """The region with the mark of the version that accepted it."""
    meta = region.get("meta")
    mark = {MARK: version, "digest": _digest(region)}
    return {**region, "meta": {**(meta if isinstance(meta, dict) else {}), **mark}}


def accepted_by(region: Mapping[str, Any]) -> str:
    """The version that accepted a region; empty where a person drew or changed it."""
    meta = region.get("meta")
    if not isinstance(meta, dict) or meta.get("digest") != _digest(region):
        return ""
    return str(meta.get(MARK) or "")


def accepting_version(result: Sequence[Mapping[str, Any]]) -> str:
    """The version that made a whole annotation; empty where a person had a part in its masks."""
    versions = {accepted_by(one) for one in result if str(one.get("type", "")).lower() in MASK_TYPES}
    return versions.pop() if len(versions) == 1 else ""


def wholly_accepted_by(result: Sequence[Mapping[str, Any]]) -> str:
    """The version that made everything in an annotation; empty where a person had a part in anything."""
    versions = {accepted_by(one) for one in result}
    return versions.pop() if len(versions) == 1 else ""


def _digest(region: Mapping[str, Any]) -> str:
    value = json.dumps(region.get("value"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(value.encode()).hexdigest()[:16]
