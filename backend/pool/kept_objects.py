"""What the model says of one task whatever the heads are: its candidates, their masks and what was done to them.

Legend: K candidates of an image of (H, W) pixels; D token width; F, S numbers of an object's features and shape.

Masks stand as the decoder made them (`usam.masks.packed_logits`) and are brought to the image's size when they are
drawn; all numbers that follow from heads are worked out anew each time. Beside the objects the store keeps drawings of
those that were shown, so that writing a ranking traces no mask twice.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.errors import StoreError
from backend.inference.model import BoolMask, ObjectLooks, ProposedObjects, enlarged
from backend.label_studio.config import OutputKind
from backend.label_studio.regions import Drawing, draw
from backend.store.records import ProposalRow
from usam.errors import MaskError
from usam.masks.packed_logits import PackedLogits
from usam.predictor.clean_proposals import Layout
from usam.prompts import Prompt

if TYPE_CHECKING:
    from backend.store import Store

Arrays = dict[str, npt.NDArray[Any]]
PROMPT_ARRAYS = ("prompt_points", "prompt_labels", "prompt_boxes")
READ_AT_ONCE = 64
"""Tasks whose objects are in memory together."""
COVER_SIDE = 32
"""Cells a side of the grid by which it is told how much of an image masks cover."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Another mask of an object: the larger model's, or another meaning of the prompt. `iou` predicted, 0..1."""

    iou: float
    checkpoint: str
    logits: PackedLogits


@dataclass(frozen=True)
class Told:
    """What a mark says of an object besides its first label: further ones, and the control by which that was told."""

    further: tuple[str, ...] = ()
    by: str = ""


@dataclass(frozen=True, eq=False)
class KeptObjects:
    """K candidates, best first.

    hw, image_features (D,)           of the image
    given                             whether another model marked them
    labels                            what the marks say each is, None for none
    told                              their further labels, and the control by which the first was told
    prompt_arrays                     the prompts that each came from (`prompts`)
    iou_token (K, D), mask_tokens (K, 4, D), output (K,), samscore (K,), entropy (K,)   what scores are made of
    looks, layout, cover (K, cells)   how they look and lie, and which cells of a grid each covers
    masks                             the first model's
    acted (K,)                        what was done, in bits
    larger, alternatives              number -> the larger model's mask that is shown instead, and another reading
    """

    hw: tuple[int, int]
    image_features: npt.NDArray[np.float32]
    given: bool
    labels: tuple[str | None, ...]
    prompt_arrays: Arrays
    iou_token: npt.NDArray[np.float16]
    mask_tokens: npt.NDArray[np.float16]
    output: npt.NDArray[np.int64]
    samscore: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    looks: ObjectLooks
    layout: Layout
    cover: npt.NDArray[np.bool_]
    masks: PackedLogits
    acted: npt.NDArray[np.int64]
    told: Mapping[int, Told] = field(default_factory=dict)
    larger: dict[int, Reading] = field(default_factory=dict)
    alternatives: dict[int, Reading] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.output)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompt that each candidate came from."""
        return _prompts_of(self.prompt_arrays)

    @classmethod
    def of(cls, found: ProposedObjects, labels: Sequence[Sequence[str]], told_by: Sequence[str] = ()) -> KeptObjects:
        """From what the model proposes, and all labels that other models gave each, with the control of the first."""
        from usam.predictor.entropy import h_std

        objects = found.objects
        return cls(
            hw=found.hw,
            image_features=found.image_features,
            given=found.given,
            labels=tuple(next(iter(one), None) for one in labels),
            prompt_arrays=prompt_arrays(found.prompts),
            iou_token=objects.iou_token.astype(np.float16),
            mask_tokens=objects.mask_tokens.astype(np.float16),
            output=objects.output,
            samscore=objects.samscore.astype(np.float32),
            entropy=np.asarray(h_std(np.clip(objects.logits, -32, 32)), np.float32).reshape(len(objects)),
            looks=found.looks,
            layout=found.layout,
            cover=covered_cells(objects.logits > 0),
            masks=PackedLogits.of(objects.logits),
            acted=np.zeros(len(objects), np.int64),
            told={n: Told(tuple(one[1:]), by) for n, (one, by) in enumerate(zip(labels, told_by, strict=False)) if one},
        )

    def mask(self, number: int, hw: tuple[int, int] | None = None, *, first: bool = False) -> BoolMask:
        """The mask of a candidate as it is shown, of the image's size or of `hw`; `first`: as the first model made it.
        Raises `MaskError`."""
        better = None if first else self.larger.get(number)
        packed, row = (self.masks, number) if better is None else (better.logits, 0)
        return enlarged(packed.logits([row])[0], hw or self.hw)

    def alternative(self, number: int) -> BoolMask:
        """(H, W) mask of an object's other reading. Raises `MaskError`, and `KeyError` where it has none."""
        return enlarged(self.alternatives[number].logits.logits([0])[0], self.hw)

    def drawing(self, number: int, kind: OutputKind, tolerance: float) -> Drawing:
        """A candidate as it is shown, as this kind of control writes it. Raises `MaskError`."""
        return draw(self.mask(number), kind, tolerance)

    def uncovered(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> float:
        """Share of the image, 0..1, that none of these candidates covers."""
        return 1.0 - float(self.cover[rows].any(0).mean()) if len(rows) else 1.0

    def after(
        self,
        number: int,
        action: int,
        *,
        larger: Reading | None = None,
        alternative: Reading | None = None,
    ) -> KeptObjects:
        """The same once `action` (a bit) was done to a candidate, with the mask that came of it, if one did."""
        acted = self.acted.copy()
        acted[number] |= action
        return replace(
            self,
            acted=acted,
            larger=self.larger | ({number: larger} if larger is not None else {}),
            alternatives=self.alternatives | ({number: alternative} if alternative is not None else {}),
        )

    # on disk

    def pack(self, task: int, key: str, drawings: Mapping[int, Drawing]) -> ProposalRow:
        """For the store, together with drawings of what is shown."""
        from safetensors.numpy import save

        about = {
            "hw": list(self.hw),
            "given": self.given,
            "labels": list(self.labels),
            "told": {number: [list(one.further), one.by] for number, one in self.told.items()},
            "features_version": self.looks.version,
        }
        arrays: Arrays = {
            "image_features": self.image_features,
            "iou_token": self.iou_token,
            "mask_tokens": self.mask_tokens,
            "output": self.output,
            "samscore": self.samscore,
            "entropy": self.entropy,
            "features": self.looks.features,
            "shapes": self.looks.shapes,
            "area": self.layout.area.astype(np.float32),
            "border": self.layout.border.astype(np.float32),
            "both": self.layout.both.astype(np.float32),
            "cover": np.packbits(self.cover, axis=1),
            "acted": self.acted,
            **self.prompt_arrays,
            **self.masks.arrays("mask_"),
        }
        for name in ("larger", "alternatives"):
            readings: dict[int, Reading] = getattr(self, name)
            about[name] = {number: [one.iou, one.checkpoint] for number, one in readings.items()}
            for number, one in readings.items():
                arrays |= one.logits.arrays(f"{name}_{number}_")
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        return ProposalRow(task, key, packed, {str(k): one.facts for k, one in drawings.items()})

    @classmethod
    def unpack(cls, row: ProposalRow) -> KeptObjects:
        """From the store. Raises `StoreError` where the row is damaged, or of an earlier release."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return cls._of_arrays(load(row.arrays))
        except (SafetensorError, KeyError, ValueError, TypeError, MaskError) as error:
            got = f"{type(error).__name__}: {error}"
            raise StoreError(f"readable proposals of task {row.task}", got, "they are made again") from error

    @classmethod
    def _of_arrays(cls, arrays: Arrays) -> KeptObjects:
        about = json.loads(arrays["about"].tobytes())
        height, width = about["hw"]
        readings = {
            name: {
                int(number): Reading(float(iou), str(checkpoint), PackedLogits.of_arrays(arrays, f"{name}_{number}_"))
                for number, (iou, checkpoint) in about[name].items()
            }
            for name in ("larger", "alternatives")
        }
        return cls(
            hw=(height, width),
            image_features=arrays["image_features"],
            given=bool(about["given"]),
            labels=tuple(about["labels"]),
            prompt_arrays={name: arrays[name] for name in PROMPT_ARRAYS},
            iou_token=arrays["iou_token"],
            mask_tokens=arrays["mask_tokens"],
            output=arrays["output"],
            samscore=arrays["samscore"],
            entropy=arrays["entropy"],
            looks=ObjectLooks(arrays["features"], arrays["shapes"], str(about["features_version"])),
            layout=Layout(arrays["area"], arrays["border"], arrays["both"]),
            cover=np.unpackbits(arrays["cover"], axis=1, count=COVER_SIDE**2).astype(bool),
            masks=PackedLogits.of_arrays(arrays, "mask_"),
            acted=arrays["acted"],
            told={int(n): Told(tuple(further), by) for n, (further, by) in about.get("told", {}).items()},
            **readings,
        )


@dataclass(frozen=True, eq=False)
class KeptBatch:
    """Some tasks, the rows that the store has of them, and the objects of those that the model could be asked about, by
    task in ascending order."""

    tasks: Sequence[int]
    rows: Mapping[int, ProposalRow]
    objects: Mapping[int, KeptObjects]


def read_kept(store: Store, project: int, tasks: Sequence[int]) -> Iterator[KeptBatch]:
    """What is kept of these tasks, some at a time. Raises `StoreError` where a row is damaged."""
    for start in range(0, len(tasks), READ_AT_ONCE):
        part = tasks[start : start + READ_AT_ONCE]
        rows = store.proposal_rows(project, part)
        yield KeptBatch(part, rows, {task: KeptObjects.unpack(row) for task, row in sorted(rows.items()) if row.arrays})
        del rows
        if start // READ_AT_ONCE % 2:
            give_back_memory()


def give_back_memory() -> None:
    """Hand freed memory back to the system where the C library keeps it: the little that stays of each batch holds the
    rest in place, more than a megabyte a task."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def drawings_of(row: ProposalRow) -> dict[int, Drawing]:
    """The drawings that are kept beside a task's objects, by number."""
    return {int(number): Drawing.of_facts(facts) for number, facts in row.drawings.items()}


def covered_cells(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which cells of a grid each mask (K, h, w) covers by half or more, (K, cells)."""
    import cv2

    size = (COVER_SIDE, COVER_SIDE)
    cells = [cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 for mask in masks]
    return np.array(cells, bool).reshape(len(masks), COVER_SIDE**2)


def prompt_arrays(prompts: Sequence[Prompt]) -> Arrays:
    """K prompts: points (K, n, 2) with labels (K, n), -1 where a prompt has fewer, and boxes (K, 4) or NaN."""
    most = max((len(prompt.points) for prompt in prompts), default=0)
    points = np.zeros((len(prompts), most, 2), np.float32)
    labels = np.full((len(prompts), most), -1, np.int32)
    boxes = np.full((len(prompts), 4), np.nan, np.float32)
    for place, prompt in enumerate(prompts):
        points[place, : len(prompt.points)] = prompt.points
        labels[place, : len(prompt.points)] = prompt.labels
        if prompt.box is not None:
            boxes[place] = prompt.box
    return {"prompt_points": points, "prompt_labels": labels, "prompt_boxes": boxes}


def _prompts_of(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Prompt]:
    return [
        Prompt(points[labels >= 0], labels[labels >= 0], None if np.isnan(box).any() else box)
        for points, labels, box in zip(
            arrays["prompt_points"], arrays["prompt_labels"], arrays["prompt_boxes"], strict=True
        )
    ]
