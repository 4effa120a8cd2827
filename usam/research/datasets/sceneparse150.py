"""ADE20k as SceneParse150: one label map of 150 classes an image.

    images/<split>/<name>.jpg   annotations/<split>/<name>.png   [objectInfo150.csv]

Labels are classes, not objects; by default each connected region of a class is one instance.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader, chosen_splits, folder, images_in
from usam.research.datasets.record import Instance, Record

LAYOUT = "images/<training|validation>/<name>.jpg and annotations/<training|validation>/<name>.png"
LICENCE = "ADE20K terms: images for non-commercial research and education"
CLASSES = 150


@dataclass(frozen=True)
class _Pair:
    split: str
    image: Path
    labels: Path


class SceneParse150(Reader[_Pair]):
    """Regions of the 150 classes; 0 ('other') is no region.

    `regions=False` takes all of a class in an image as one instance. A region under `min_pixels` pixels is
    counted as 'speck' and passed over.
    """

    def __init__(self, root: Path, split: str | None = None, *, regions: bool = True, min_pixels: int = 64) -> None:
        super().__init__("sceneparse150")
        self._regions, self._min_pixels = regions, min_pixels
        images = folder(root, "images", name=self.name, layout=LAYOUT)
        annotations = folder(root, "annotations", name=self.name, layout=LAYOUT)
        self._names = _class_names(root)
        available = [path.name for path in images.iterdir() if path.is_dir()]
        if not available and split is not None:
            raise DatasetError(f"{self.name}: {LAYOUT}", f"images without splits in {images}", "leave the split out")
        entries: list[_Pair] = []
        for each in chosen_splits(self.name, available, split) if available else [""]:
            for image in images_in(images / each):
                labels = annotations / each / f"{image.stem}.png"
                if labels.is_file():
                    entries.append(_Pair(each, image, labels))
                else:
                    self.problems.add("missing mask", str(image))
        self._list(entries, LAYOUT, root)

    def _record(self, entry: _Pair) -> Record | None:
        size = self._size_of(entry.image)
        labels = self._label_map(entry.labels, size) if size is not None else None
        if labels is None:
            return None
        name = entry.image.stem
        if labels.ndim != 2 or labels.max(initial=0) > CLASSES:
            self.problems.add("unreadable mask", f"{entry.labels}: expected gray labels from 0 to {CLASSES}")
            return None
        return Record(
            dataset=self.name,
            image_id=name,
            group=f"ade20k/{name}",
            image_path=entry.image,
            instances=tuple(self._instances(f"{self.name}/{name}", labels)),
            licence=LICENCE,
            split=entry.split,
        )

    def _instances(self, place: str, labels: npt.NDArray[np.uint8]) -> list[Instance]:
        instances: list[Instance] = []
        for value in np.flatnonzero(np.bincount(labels.ravel())):
            if value == 0:
                continue
            of_class = labels == value
            category = self._names.get(int(value), "")
            if not self._regions:
                instances += filter(None, [self._packed(f"{place}/{value}", of_class, category)])
                continue
            count, numbered, figures, _ = cv2.connectedComponentsWithStats(of_class.astype(np.uint8))
            for region in range(1, count):
                object_id = f"{place}/{value}/{region}"
                if figures[region, cv2.CC_STAT_AREA] < self._min_pixels:
                    self.problems.add("speck", object_id)
                elif found := self._packed(object_id, numbered == region, category):
                    instances.append(found)
        return instances


def _class_names(root: Path) -> dict[int, str]:
    for path in (root / "objectInfo150.csv", root.parent / "objectInfo150.csv"):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as lines:
                return {int(row["Idx"]): row["Name"] for row in csv.DictReader(lines)}
    return {}
