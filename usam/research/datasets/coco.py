"""COCO: instances and panoptic segments, in the layout of cocodataset.org.

    annotations/instances_<split>.json              <split>/<image>.jpg
    annotations/panoptic_<split>.json               annotations/panoptic_<split>/<image>.png

Formats: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader, chosen_splits, folder
from usam.research.datasets.record import Instance, Record
from usam.research.datasets.stored_masks import MalformedMask, from_polygons, from_run_lengths

INSTANCES_LAYOUT = "annotations/instances_<split>.json beside <split>/ with the images"
PANOPTIC_LAYOUT = "annotations/panoptic_<split>.json and annotations/panoptic_<split>/ beside <split>/ with the images"


@dataclass(frozen=True)
class _Entry:
    split: str
    image: dict[str, Any]
    annotations: tuple[dict[str, Any], ...]


class CocoInstances(Reader[_Entry]):
    """COCO objects. A crowd region is no object: it is counted as 'crowd' and passed over."""

    def __init__(self, root: Path, split: str | None = None) -> None:
        super().__init__("coco")
        self._root = root
        self._licences: dict[int, str] = {}
        self._categories: dict[int, str] = {}
        entries: list[_Entry] = []
        for each, document in _documents(self, root, "instances", INSTANCES_LAYOUT, split):
            _require(self.name, document["annotations"], ("id", "image_id"))
            by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for annotation in document["annotations"]:
                by_image[annotation["image_id"]].append(annotation)
            known = {image["id"] for image in document["images"]}
            for image_id in by_image.keys() - known:
                self.problems.add("annotation of an unlisted image", f"{each}/{image_id}")
            entries += [_Entry(each, image, tuple(by_image[image["id"]])) for image in document["images"]]
        self._list(entries, INSTANCES_LAYOUT, root)

    def _record(self, entry: _Entry) -> Record | None:
        path = self._root / entry.split / entry.image["file_name"]
        size = _checked_size(self, path, entry.image)
        if size is None:
            return None
        instances = [found for each in entry.annotations if (found := self._instance(each, size))]
        return _as_record(self.name, path, entry, instances, self._licences)

    def _instance(self, annotation: dict[str, Any], size: tuple[int, int]) -> Instance | None:
        object_id = f"coco/{annotation['id']}"
        if annotation.get("iscrowd"):
            self.problems.add("crowd", object_id)
            return None
        shape = annotation.get("segmentation")
        try:
            mask = (from_polygons if isinstance(shape, list) else from_run_lengths)(shape, *size)
        except MalformedMask as error:
            self.problems.add(error.kind, f"{object_id}: {error}")
            return None
        return Instance(object_id, mask, self._categories.get(annotation.get("category_id", -1), ""))


class CocoPanoptic(Reader[_Entry]):
    """COCO panoptic segments: things, and stuff such as sky or grass. Crowds are counted and passed over."""

    def __init__(self, root: Path, split: str | None = None) -> None:
        super().__init__("coco-panoptic")
        self._root = root
        self._licences: dict[int, str] = {}
        self._categories: dict[int, str] = {}
        entries: list[_Entry] = []
        for each, document in _documents(self, root, "panoptic", PANOPTIC_LAYOUT, split):
            folder(root / "annotations", f"panoptic_{each}", name=self.name, layout=PANOPTIC_LAYOUT)
            _require(self.name, document["annotations"], ("image_id", "file_name", "segments_info"))
            images = {image["id"]: image for image in document["images"]}
            for annotation in document["annotations"]:
                if annotation["image_id"] in images:
                    entries.append(_Entry(each, images[annotation["image_id"]], (annotation,)))
                else:
                    self.problems.add("annotation of an unlisted image", f"{each}/{annotation['image_id']}")
        self._list(entries, PANOPTIC_LAYOUT, root)

    def _record(self, entry: _Entry) -> Record | None:
        path = self._root / entry.split / entry.image["file_name"]
        size = _checked_size(self, path, entry.image)
        if size is None:
            return None
        annotation = entry.annotations[0]
        png = self._root / "annotations" / f"panoptic_{entry.split}" / annotation["file_name"]
        colours = self._label_map(png, size)
        if colours is None:
            return None
        if colours.ndim != 3:
            self.problems.add("unreadable mask", f"{png}: expected an RGB image")
            return None
        ids = colours.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        instances: list[Instance] = []
        for segment in annotation["segments_info"]:
            if not isinstance(segment, dict) or "id" not in segment:
                self.problems.add("segment without an id", str(png))
                continue
            object_id = f"coco-panoptic/{entry.image['id']}/{segment['id']}"
            if segment.get("iscrowd"):
                self.problems.add("crowd", object_id)
            elif found := self._packed(
                object_id, ids == segment["id"], self._categories.get(segment.get("category_id", -1), "")
            ):
                instances.append(found)
        return _as_record(self.name, path, entry, instances, self._licences)


def _documents(
    reader: CocoInstances | CocoPanoptic, root: Path, kind: str, layout: str, split: str | None
) -> list[tuple[str, dict[str, Any]]]:
    annotations = folder(root, "annotations", name=reader.name, layout=layout)
    available = [path.stem.removeprefix(f"{kind}_") for path in annotations.glob(f"{kind}_*.json")]
    if not available:
        there = ", ".join(sorted(path.name for path in annotations.iterdir())[:8])
        raise DatasetError(f"{reader.name}: {layout}", f"{annotations} with {there or 'nothing'}")
    found = []
    for each in chosen_splits(reader.name, available, split):
        folder(root, each, name=reader.name, layout=layout)
        path = annotations / f"{kind}_{each}.json"
        try:
            document = json.loads(path.read_bytes())
            _require(reader.name, document["images"], ("id", "file_name", "height", "width"))
            reader._categories |= {one["id"]: one["name"] for one in document.get("categories", [])}
            reader._licences |= {one["id"]: one["name"] for one in document.get("licenses", [])}
            _ = document["images"], document["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{reader.name}: {path} with 'images' and 'annotations'", f"{error!r:.200}", "fetch it again"
            ) from error
        found.append((each, document))
    return found


def _require(name: str, items: Any, keys: tuple[str, ...]) -> None:
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, dict) or any(key not in item for key in keys):
            raise DatasetError(f"{name}: entries with {', '.join(keys)}", f"{item!r:.120}", "fetch the file again")


def _checked_size(reader: Reader[_Entry], path: Path, image: dict[str, Any]) -> tuple[int, int] | None:
    size = reader._size_of(path)
    listed = (int(image.get("height", 0)), int(image.get("width", 0)))
    if size is not None and size != listed:
        reader.problems.add(
            "image of another size", f"{path}: {size[0]} x {size[1]}, listed as {listed[0]} x {listed[1]}"
        )
        return None
    return size


def _as_record(name: str, path: Path, entry: _Entry, instances: list[Instance], licences: dict[int, str]) -> Record:
    image_id = str(entry.image["id"])
    return Record(
        dataset=name,
        image_id=image_id,
        group=f"coco/{image_id}",
        image_path=path,
        instances=tuple(instances),
        licence=licences.get(entry.image.get("license", -1), ""),
        split=entry.split,
    )
