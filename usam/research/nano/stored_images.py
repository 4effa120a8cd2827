"""Images that the nano family learns from: which may be used for what, and held small in one file.

Legend: N masks of one image, h, w its stored size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import cv2
import numpy as np

from usam.errors import DatasetError, UsamError
from usam.research.datasets.record import Record
from usam.research.nano.scenes import ByteArray

Part = Literal["train", "heads", "test"]
Place = tuple[int, tuple[int, ...]]
"""Offset and shape of an array in a file."""

IMAGE_SIDE = 480
"""Longer side of a stored image, or the side of the training pictures where that is more; masks have half of it."""
MOST_MASKS = 24
"""Masks of one stored image; of more, some of every size are kept, so that no set of cells drowns the rest."""
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


def store_record(record: Record, longest: int = IMAGE_SIDE) -> StoredImage | None:
    """Shrink one record to `longest` pixels a side at most; None where nothing in it is large enough."""
    image = record.read_image()
    scale = min(1.0, longest / max(image.shape[:2]))
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


class Places(NamedTuple):
    """Where the parts of one image lie, and its data set."""

    image: Place
    masks: Place
    ignored: Place | None
    dataset: str


class MappedStore(Sequence[StoredImage]):
    """Stored images whose pixels lie in one file: processes that train together share them, where a list would be
    copied into each. Images with several annotations (COCO's two kinds) are there once for each.
    """

    def __init__(self, path: Path, places: list[Places]) -> None:
        self.path, self.places = path, places
        self._bytes = np.memmap(path, np.uint8, "r")

    @classmethod
    def of(cls, records: Iterable[Record], path: Path, longest: int = IMAGE_SIDE) -> MappedStore:
        """Write all usable records to `path`, images of at most `longest` pixels a side.

        Raises `DatasetError` when none is usable.
        """
        places: list[Places] = []
        with path.open("wb") as file:

            def write(pixels: ByteArray) -> Place:
                place = file.tell(), pixels.shape
                file.write(pixels.tobytes())
                return place

            for stored in _usable(records, longest):
                ignored = None if stored.ignored is None else write(stored.ignored)
                places.append(Places(write(stored.image), write(stored.masks), ignored, stored.dataset))
        if not places:
            raise DatasetError("images with masks to train on", "none", "check the data folder")
        return cls(path, places)

    def __reduce__(self) -> tuple[type[MappedStore], tuple[Path, list[Places]]]:
        return MappedStore, (self.path, self.places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> StoredImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[StoredImage]: ...

    def __getitem__(self, index: int | slice) -> StoredImage | list[StoredImage]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        image, masks, ignored, dataset = self.places[index]
        return StoredImage(
            self._read(image), self._read(masks), None if ignored is None else self._read(ignored), dataset
        )

    def _read(self, place: Place) -> ByteArray:
        offset, shape = place
        return self._bytes[offset : offset + int(np.prod(shape))].reshape(shape)


def _usable(records: Iterable[Record], longest: int) -> Iterator[StoredImage]:
    frames: Counter[str] = Counter()
    for record in records:
        group = f"{record.dataset}/{record.group}"
        if frames[group] >= MOST_FRAMES:
            continue
        frames[group] += 1
        try:
            stored = store_record(record, longest)
        except UsamError:
            continue
        if stored is not None:
            yield stored
