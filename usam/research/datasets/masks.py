"""The simplest layout for a folder of one's own: images beside one indexed mask file an image, many objects in each.

    images/<name>.jpg
    masks/<name>.png     one channel of the image's size: 0 nothing labelled, 1, 2, ... one number an object
    files.tsv            optional: columns `file` and `group`, images that a split must keep together

The highest number that the file's depth can hold (255 in 8 bits, 65535 in 16) marks pixels to ignore: neither object
nor background. A pixel has one number, so where objects overlap it is the upper one's.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from usam.errors import DatasetError
from usam.research.datasets.reader import ImageAndMask, Reader, folder
from usam.research.datasets.record import Record
from usam.research.datasets.stored_masks import PackedMask

LAYOUT = "images/<name>.jpg beside masks/<name>.png with one number an object"

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class Masks(Reader[ImageAndMask]):
    """Images with all their objects in one indexed PNG each.

    `name` is what records carry as data set (the root folder's name in lower case without it); `licence` goes into
    each record. Objects are named after their number: `<name>/<image>/<number>`.
    """

    def __init__(self, root: Path, split: str | None = None, *, name: str = "", licence: str = "") -> None:
        super().__init__(name or root.resolve().name.lower())
        if split is not None:
            raise DatasetError("no split: folders of masks have none", f"'{split}'", "leave the split out")
        self._licence = licence
        pictures = folder(root, "images", name=self.name, layout=LAYOUT)
        labels = folder(root, "masks", name=self.name, layout=LAYOUT)
        self._groups = _read_groups(root / "files.tsv")
        self._list(self._pairs(pictures, labels), LAYOUT, root)

    def _record(self, entry: ImageAndMask) -> Record | None:
        size = self._size_of(entry.image)
        labels = self._label_map(entry.mask, size) if size is not None else None
        if labels is None:
            return None
        if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
            found = f"{entry.mask}: {labels.ndim - 1} x {labels.dtype}"
            self.problems.add("mask that is not one channel of 8 or 16 bits", found)
            return None
        identity = f"{self.name}/{entry.image.stem}"
        ignored = labels == np.iinfo(labels.dtype).max
        return Record(
            dataset=self.name,
            image_id=entry.image.stem,
            group=f"{self.name}/{self._groups.get(entry.image.stem, entry.image.stem)}",
            image_path=entry.image,
            instances=tuple(
                instance
                for number in object_numbers(labels)
                if (instance := self._packed(f"{identity}/{number}", labels == number))
            ),
            licence=self._licence,
            read_ignored=PackedMask.of(ignored) if ignored.any() else None,
        )


def object_numbers(labels: Labels) -> list[int]:
    """The numbers of the objects in (H, W) labels, rising: neither 0 nor the one that marks what to ignore."""
    numbers = np.unique(labels)
    return [int(number) for number in numbers if 0 < number < np.iinfo(labels.dtype).max]


def _read_groups(path: Path) -> dict[str, str]:
    """Image name -> group, from the column `group` of a table; empty without the file or the column."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        if rows.fieldnames is None or not {"file", "group"} <= set(rows.fieldnames):
            return {}
        return {Path(row["file"]).stem: row["group"] for row in rows if row["group"]}
