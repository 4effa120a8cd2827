"""A folder of images beside a folder of masks of the same names: ECSSD, Oxford-IIIT Pet and sets like them.

    images/<name>.jpg
    one of ground_truth_mask/ masks/ mask/ trimaps_binary/ annotations/trimaps/ gt/ annotations/, with <name>.png

One object an image: every pixel that is not 0. In a trimap (255 beside 1 or 2, as in `trimaps_binary`) 255 is
a band drawn over the outline with a broad brush: by default each of its pixels goes to the nearer side. Labels
1, 2 and 3 without 0 are those of Oxford-IIIT Pet: object, background, band.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import DatasetError
from usam.research.datasets.reader import ImageAndMask, Reader, folder, names_in
from usam.research.datasets.record import BoolMask, Record

MASK_FOLDERS = ("ground_truth_mask", "masks", "mask", "trimaps_binary", "annotations/trimaps", "gt", "annotations")
LAYOUT = f"images/<name>.jpg beside one of {', '.join(MASK_FOLDERS)} with <name>.png"
BAND = 255

Band = Literal["nearest", "object", "background"]


class Folders(Reader[ImageAndMask]):
    """Plain image and mask folders, one object an image.

    `name` is what records carry as data set (the root folder's name in lower case without it), `images` and
    `masks` are folders below the root, `band` says where a trimap's band belongs. `exclude` is a file below the
    root with the names of images to leave out, one a line, such as those that ECSSD shares with BSDS500.
    """

    def __init__(
        self,
        root: Path,
        split: str | None = None,
        *,
        name: str = "",
        images: str = "images",
        masks: str = "",
        band: Band = "nearest",
        licence: str = "",
        exclude: str = "",
    ) -> None:
        super().__init__(name or root.resolve().name.lower())
        if split is not None:
            raise DatasetError("no split: plain folders have none", f"'{split}'", "leave the split out")
        self._band = band
        self._licence = licence
        pictures = folder(root, images, name=self.name, layout=LAYOUT)
        labels = folder(root, *([masks] if masks else MASK_FOLDERS), name=self.name, layout=LAYOUT)
        excluded = self._names_to_exclude(root / exclude) if exclude else set()
        self._list(self._pairs(pictures, labels, excluded), LAYOUT, root)

    def _names_to_exclude(self, path: Path) -> set[str]:
        if not path.is_file():
            raise DatasetError("a file with the names of images to leave out", f"no {path}", "leave exclude out")
        return {Path(line.split()[0]).stem for line in names_in(path)}

    def _record(self, entry: ImageAndMask) -> Record | None:
        size = self._size_of(entry.image)
        labels = self._label_map(entry.mask, size) if size is not None else None
        if labels is None:
            return None
        if labels.ndim == 3:
            labels = labels.max(axis=2)
        identity = f"{self.name}/{entry.image.stem}"
        instance = self._packed(identity, foreground(labels, self._band))
        return Record(
            dataset=self.name,
            image_id=entry.image.stem,
            group=identity,
            image_path=entry.image,
            instances=(instance,) if instance else (),
            licence=self._licence,
        )


def foreground(labels: npt.NDArray[np.uint8], band: Band = "nearest") -> BoolMask:
    """The object in (H, W) labels; the band of a trimap goes to the side that `band` names.

    Gray edges between 0 and 255 of a two-valued mask count as object from 128 on.
    """
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    if values[0] == 1 and values[-1] <= 3:
        labels = np.array([0, 1, 0, BAND], np.uint8)[labels]
        values = np.unique(labels)
    small = values[(values > 0) & (values < BAND)]
    if small.size == 0 or (small.max() > 2 and values.max() < BAND):
        return np.asarray(labels > 0)
    if small.max() > 2:
        return np.asarray(labels >= 128)
    inside: BoolMask = (labels > 0) & (labels < BAND)
    in_band: BoolMask = labels == BAND
    if band == "background" or not in_band.any():
        return inside
    if band == "object":
        return inside | in_band
    to_inside = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    to_outside = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 5)
    nearest: BoolMask = inside | (in_band & (to_inside <= to_outside))
    return nearest
