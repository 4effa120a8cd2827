"""BSDS500: several people's segmentations of each image, one record a person.

    [data/ | BSDS500/data/]images/<split>/<id>.jpg    groundTruth/<split>/<id>.mat

A .mat file holds a cell array `groundTruth`, one cell an annotator, with a label map `Segmentation` that
numbers the segments from 1; every segment is an instance.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from usam.research.datasets.reader import Reader, chosen_splits, folder, images_in
from usam.research.datasets.record import Record

LAYOUT = "images/<train|val|test>/<id>.jpg and groundTruth/<train|val|test>/<id>.mat, in data/ or BSDS500/data/"
LICENCE = "Berkeley, research use"

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Sheet:
    split: str
    image: Path
    truth: Path
    annotator: int


class Bsds500(Reader[_Sheet]):
    """One record for each annotator of an image, all of an image in one group."""

    def __init__(self, root: Path, split: str | None = None) -> None:
        super().__init__("bsds500")
        images = folder(root, "data/images", "BSDS500/data/images", "images", name=self.name, layout=LAYOUT)
        truths = folder(images.parent, "groundTruth", name=self.name, layout=LAYOUT)
        available = [path.name for path in images.iterdir() if path.is_dir()]
        entries: list[_Sheet] = []
        for each in chosen_splits(self.name, available, split):
            for image in images_in(images / each):
                truth = truths / each / f"{image.stem}.mat"
                entries += [_Sheet(each, image, truth, who) for who in range(self._annotators(truth))]
        self._list(entries, LAYOUT, root)
        self._latest: tuple[Path, list[npt.NDArray[np.int32]]] | None = None

    def _annotators(self, path: Path) -> int:
        def count() -> int:
            from scipy.io import whosmat

            return int(dict((name, shape) for name, shape, _ in whosmat(path))["groundTruth"][-1])

        return self._guarded(path, count) or 0

    def _segmentations(self, path: Path) -> list[npt.NDArray[np.int32]] | None:
        if self._latest is not None and self._latest[0] == path:
            return self._latest[1]

        def read() -> list[npt.NDArray[np.int32]]:
            from scipy.io import loadmat

            cells = loadmat(path, squeeze_me=False)["groundTruth"].ravel()
            return [np.asarray(cell["Segmentation"][0, 0], np.int32) for cell in cells]

        if (found := self._guarded(path, read)) is not None:
            self._latest = (path, found)
        return found

    def _guarded(self, path: Path, read: Callable[[], Result]) -> Result | None:
        if not path.is_file():
            self.problems.add("missing annotation", str(path))
            return None
        try:
            return read()
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            OSError,
            NotImplementedError,
            zlib.error,
        ) as error:
            self.problems.add("unreadable annotation", f"{path}: {error!r:.100}")
        return None

    def _record(self, entry: _Sheet) -> Record | None:
        size = self._size_of(entry.image)
        sheets = self._segmentations(entry.truth) if size is not None else None
        if sheets is None:
            return None
        labels = sheets[entry.annotator]
        place = f"{self.name}/{entry.image.stem}/{entry.annotator}"
        if labels.shape != size:
            self.problems.add("mask of another size", f"{place}: {labels.shape}, image {size}")
            return None
        values = [value for value in np.unique(labels).tolist() if value > 0]
        found = [self._packed(f"{place}/{value}", labels == value) for value in values]
        return Record(
            dataset=self.name,
            image_id=entry.image.stem,
            group=f"bsds500/{entry.image.stem}",
            image_path=entry.image,
            instances=tuple(instance for instance in found if instance is not None),
            annotator=str(entry.annotator),
            licence=LICENCE,
            split=entry.split,
        )
