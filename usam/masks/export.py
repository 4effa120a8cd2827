"""Masks on disk, for those who train with them: one COCO file, and one PNG each.

Legend: H, W height and width of an image in pixels. Run lengths are COCO's uncompressed ones: down the columns, the
first of zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.files import write_whole

BoolMask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ExportedMask:
    """One mask (H, W) of a task; `file_name` is its image's, `facts` go into the COCO annotation as they are."""

    task: int
    file_name: str
    name: str
    label: str
    mask: BoolMask = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)


def export_masks(folder: Path, masks: Iterable[ExportedMask], info: Mapping[str, Any]) -> int:
    """Write `masks/<task>-<name>.png` (0 and 255) and, when all are there, `coco.json`; returns how many masks.

    Image ids are task numbers. Files of the same name are replaced. Raises `OSError` where it cannot be written.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    images: dict[int, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for one in masks:
        height, width = one.mask.shape
        file = f"{one.task}-{one.name}.png"
        _write_png(folder / "masks" / file, one.mask)
        images[one.task] = {"id": one.task, "file_name": one.file_name, "height": height, "width": width}
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": one.task,
                "category_id": categories.setdefault(one.label, len(categories) + 1),
                "segmentation": {"size": [height, width], "counts": run_lengths(one.mask)},
                "area": int(one.mask.sum()),
                "bbox": _box(one.mask),
                "iscrowd": 0,
                "mask_file": f"masks/{file}",
                **one.facts,
            }
        )
    coco = {
        "info": dict(info),
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": label or "object"} for label, number in categories.items()],
    }
    write_whole(folder / "coco.json", json.dumps(coco).encode())
    return len(annotations)


def run_lengths(mask: BoolMask) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W)."""
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], ends, [len(flat)]]))
    return [int(length) for length in ([0, *lengths] if len(flat) and flat[0] else lengths)]


def _box(mask: BoolMask) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def _write_png(path: Path, mask: BoolMask) -> None:
    from PIL import Image

    Image.fromarray(np.asarray(mask, np.uint8) * np.uint8(255)).save(path, "PNG")
