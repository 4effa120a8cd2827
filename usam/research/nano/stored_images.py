"""Images that the nano family learns from: which may be used for what, and held small in memory.

Legend: N masks of one image, h, w its size in memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from usam.errors import DatasetError, UsamError
from usam.research.datasets.record import Record
from usam.research.nano.scenes import ByteArray

Part = Literal["train", "heads", "test"]

IMAGE_SIDE = 480
"""Longer side of an image in memory; masks are kept at half of it."""
MOST_MASKS = 24
"""Masks of one image in memory; of more, some of every size are kept, so that no set of cells drowns the rest."""
SMALLEST_STORED = 0.0005
"""Smallest share of an image that is kept: a crop makes it larger."""
MOST_FRAMES = 12
"""Frames of one video that are trained on."""


def nano_split(group: str) -> Part:
    """What an image (or the video it is a frame of) may be used for: 70 % train, 15 % heads, 15 % test.

    `group`: the record's group or image id; a path, a suffix and leading zeros do not matter. No weight of the nano
    family has seen 'heads' or 'test'; heads are trained and calibrated on 'heads', figures are taken on 'test'.
    """
    name = group.rsplit("/", 1)[-1]
    name = name.rsplit(".", 1)[0].lstrip("0") or "0"
    share = int.from_bytes(hashlib.sha256(f"nano-11/{name}".encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.70 else "heads" if share < 0.85 else "test"


@dataclass(frozen=True)
class StoredImage:
    """An image and its masks, small. `image` (h, w, 3) uint8; `masks` (N, h // 2, w // 2) uint8, 0 or 255.

    `ignored` (h // 2, w // 2) uint8, 255 where nothing is known; `dataset` names the set it is of.
    """

    image: ByteArray
    masks: ByteArray
    ignored: ByteArray | None = None
    dataset: str = ""


def store_record(record: Record) -> StoredImage | None:
    """Shrink one record for memory; None where nothing in it is large enough."""
    image = record.read_image()
    scale = min(1.0, IMAGE_SIDE / max(image.shape[:2]))
    width, height = (max(2, round(side * scale)) for side in image.shape[1::-1])
    half = (width // 2, height // 2)
    masks = []
    for instance in record.instances:
        mask = instance.read_mask()
        if mask.mean() >= SMALLEST_STORED:
            small = cv2.resize(mask.astype(np.uint8) * 255, half, interpolation=cv2.INTER_AREA)
            if (small > 127).any():
                masks.append(np.where(small > 127, 255, 0).astype(np.uint8))
    if not masks:
        return None
    masks.sort(key=lambda mask: -int(mask.astype(np.int64).sum()))
    small_image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    kept = np.unique(np.linspace(0, len(masks) - 1, MOST_MASKS).round().astype(int))
    ignored = None
    if record.read_ignored is not None:
        ignored = cv2.resize(record.read_ignored().astype(np.uint8) * 255, half, interpolation=cv2.INTER_AREA)
    return StoredImage(
        np.ascontiguousarray(small_image, np.uint8),
        np.stack([masks[index] for index in kept]),
        None if ignored is None else np.asarray(ignored, np.uint8),
        record.dataset,
    )


Sets = Literal["old", "A", "AB"]


def sets_named(name: str) -> Sets:
    """One of the choices of `training_records`. Raises `DatasetError` for another name."""
    choices: tuple[Sets, ...] = ("old", "A", "AB")
    for choice in choices:
        if choice == name:
            return choice
    raise DatasetError(f"one of {', '.join(choices)}", repr(name), "choose one of them")


def training_records(root: Path, sets: Sets = "AB") -> Iterator[Record]:
    """Records of the training part of the data sets under `root` that the family is trained on.

    `sets`: the five public sets alone ('old'), with the photographs whose licence is best founded ('A'), or with all
    photographs ('AB'). A data set that is not there is passed over, and so is a picture whose licence forbids
    derivatives; raises `DatasetError` when none is left.
    """
    from usam.research.datasets import open_dataset

    sources = (
        ("coco", "coco_subset"),
        ("coco-panoptic", "coco_subset"),
        ("davis", "DAVIS"),
        ("mose", "PUMaVOS_chair"),
        ("dsb2018", "DSB2018_subset"),
        ("folders", "OxfordPets_26"),
    )
    found = 0
    for name, folder in sources:
        if not (root / folder).is_dir():
            continue
        for record in open_dataset(name, root / folder):
            if nano_split(record.group) == "train" and not record.forbids_derivatives:
                found += 1
                yield record
    if sets != "old" and (root / "photographs").is_dir():
        for record in open_dataset("photographs", root / "photographs", provenance="A" if sets == "A" else ""):
            if nano_split(record.group) == "train":
                found += 1
                yield record
    if not found:
        raise DatasetError("a folder with the training data sets", str(root), "see models/NANO.md")


def load_store(records: Iterable[Record]) -> list[StoredImage]:
    """All usable records in memory, images with several annotations (COCO's two kinds) once for each."""
    store: list[StoredImage] = []
    frames: Counter[str] = Counter()
    for record in records:
        group = f"{record.dataset}/{record.group}"
        if frames[group] >= MOST_FRAMES:
            continue
        frames[group] += 1
        try:
            stored = store_record(record)
        except UsamError:
            continue
        if stored is not None:
            store.append(stored)
    if not store:
        raise DatasetError("images with masks to train on", "none", "check the data folder")
    return store
