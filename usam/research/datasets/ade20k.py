"""ADE20k in full (2021_17_01): objects, parts and parts of parts.

    images/ADE/<split>/<scene>/.../<name>.jpg  <name>.json  <name>/instance_<id>_<name>.png

An instance file is amodal: 255 where the object is seen, 128 where another one hides it. The JSON names each
object, its class and the object it is a part of; such a part has that object as `parent_id`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usam.research.datasets.reader import Reader, chosen_splits, folder
from usam.research.datasets.record import Instance, Record

LAYOUT = "images/ADE/<training|validation>/<scene>/<place>/<name>.jpg, <name>.json and <name>/instance_*.png"
LICENCE = "ADE20K terms: images for non-commercial research and education"
SEEN = 255


@dataclass(frozen=True)
class _Scene:
    split: str
    image: Path


class Ade20k(Reader[_Scene]):
    """Objects and parts. `amodal=True` takes what is hidden too, `parts=False` whole objects only."""

    def __init__(self, root: Path, split: str | None = None, *, amodal: bool = False, parts: bool = True) -> None:
        super().__init__("ade20k")
        self._amodal, self._parts = amodal, parts
        top = folder(root, "images/ADE", "ADE20K_2021_17_01/images/ADE", name=self.name, layout=LAYOUT)
        available = [path.name for path in top.iterdir() if path.is_dir()]
        entries = [
            _Scene(each, image)
            for each in chosen_splits(self.name, available, split)
            for image in sorted((top / each).rglob("*.jpg"))
        ]
        self._list(entries, LAYOUT, root)

    def _record(self, entry: _Scene) -> Record | None:
        name = entry.image.stem
        size = self._size_of(entry.image)
        if size is None:
            return None
        listed = self._objects(entry.image.with_suffix(".json"))
        if listed is None:
            return None
        instances = [found for each in listed if (found := self._instance(entry.image, each, size))]
        return Record(
            dataset=self.name,
            image_id=name,
            group=f"ade20k/{name}",
            image_path=entry.image,
            instances=tuple(instances),
            licence=LICENCE,
            split=entry.split,
        )

    def _objects(self, path: Path) -> list[dict[str, Any]] | None:
        try:
            objects = json.loads(path.read_text(encoding="utf-8", errors="replace"))["annotation"]["object"]
        except FileNotFoundError:
            self.problems.add("missing annotation", str(path))
        except (ValueError, KeyError, TypeError) as error:
            self.problems.add("unreadable annotation", f"{path}: {error!r:.100}")
        else:
            return [objects] if isinstance(objects, dict) else list(objects)
        return None

    def _instance(self, image: Path, listed: dict[str, Any], size: tuple[int, int]) -> Instance | None:
        try:
            number, file, parts = listed["id"], listed["instance_mask"], listed["parts"]
            parent = parts["ispartof"] if isinstance(parts, dict) else None
        except (KeyError, TypeError):
            self.problems.add("object without id, parts or instance_mask", f"{image.stem}: {listed!r:.80}")
            return None
        if isinstance(parent, list):
            parent = parent[0] if parent else None
        if parent is not None and not self._parts:
            return None
        object_id = f"ade20k/{image.stem}/{number}"
        labels = self._label_map(image.parent / file, size)
        if labels is None:
            return None
        mask = labels > 0 if self._amodal else labels == SEEN
        parent_id = "" if parent is None else f"ade20k/{image.stem}/{parent}"
        return self._packed(object_id, mask, listed.get("name", ""), parent_id)
