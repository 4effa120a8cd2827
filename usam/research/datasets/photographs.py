"""A folder of many sets of photographs in the layout `masks`, each of another domain, parted by what belongs together.

    photographs/SOURCES.tsv        name, ..., notes with "provenance A" or "provenance B"
    photographs/<set>/images, masks, files.tsv with `file` and `source_path`

Names of the source files tell which pictures are crops, neighbours in time or frames of one video: such pictures
share a group, so that no part of the split holds a sibling of another's.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from usam.errors import DatasetError
from usam.research.datasets.masks import Masks
from usam.research.datasets.reader import Reader, chosen_splits
from usam.research.datasets.record import Record

LAYOUT = "SOURCES.tsv beside <set>/images, <set>/masks and <set>/files.tsv"

_EXPORT_TAIL = re.compile(r"(_(jpg|jpeg|png))?(\.rf\.[0-9a-f]+)?(\.(jpg|jpeg|png))?$", re.IGNORECASE)
_SIBLINGS = {
    "aerial_buildings": r"^(.*?)(-Copy)?$",
    "cotton": r"^(WIN_\d{8}_\d\d_\d\d)",
    "facades": r"^(.*?)(_scaled_\d+)?$",
    "granules": r"^(\d+)",
    "mushrooms": r"^(IMG_\d{3})",
    "needles": r"^(\d{8}_\d{2})",
    "potholes": r"^(GX\d+_\d{5})",
    "seedlings": r"^([a-z]+_\d{12})",
    "tree_limbs": r"^(left\d{5})",
    "vehicles": r"^(.*?_?\d*?)(\d\d)?(_\d{4}-\d\d-\d\d)?$",
    "warehouse": r"^(\d{4})",
}
_STUFF_IGNORED = ("facades",)
"""Sets whose ignored pixels are walls, streets and trees: surely no part of a window, so they count as background."""
_COCO_NUMBER = re.compile(r"^\d{12}$")


def picture_group(dataset: str, source_path: str) -> str:
    """What must stay together: the video of a frame, the photograph of a crop, the minute or block of a series.

    >>> picture_group("facades", "train/IMG_5999_scaled_0_png_jpg.rf.808f54a9106e32d924ccf305281c5677.jpg")
    'facades-IMG_5999'
    >>> picture_group("davis_frames", "DAVIS/JPEGImages/480p/camel/00000.jpg")
    'camel'
    """
    path = Path(source_path)
    if dataset == "davis_frames":
        return path.parent.name
    stem = _EXPORT_TAIL.sub("", _EXPORT_TAIL.sub("", path.name))
    if (pattern := _SIBLINGS.get(dataset)) and (match := re.match(pattern, stem)):
        stem = match.group(1)
    return f"{dataset}-{stem}"


def may_be_learnt(dataset: str, source_path: str) -> bool:
    """Whether what is made from this picture may be passed on, as far as its name tells.

    Pictures of `animals7` that carry a COCO number come from COCO, where the photographer may have forbidden
    derivatives; which of them did is not said there, so all of them stay out.
    """
    return not (dataset == "animals7" and _COCO_NUMBER.match(_EXPORT_TAIL.sub("", Path(source_path).name)))


class Photographs(Reader[tuple[str, int]]):
    """All sets of a folder, one after the other; a record's data set is the set it is of.

    `split` names one set; `provenance` (A: pictures look like the publisher's own; B: the uploader's claim) those
    whose licence can be trusted so far. Pictures that may not be learnt from are counted and left out.
    """

    def __init__(self, root: Path, split: str | None = None, *, provenance: str = "") -> None:
        super().__init__("photographs")
        table = root / "SOURCES.tsv"
        if not table.is_file():
            raise DatasetError(f"photographs: {LAYOUT}", f"no {table}", "point at the folder with the sets")
        sources = {row["name"]: row for row in _rows(table) if (root / row["name"] / "images").is_dir()}
        chosen = chosen_splits(self.name, sources, split)
        self._sets: dict[str, Masks] = {}
        self._source_paths: dict[str, dict[str, str]] = {}
        entries = []
        for name in chosen:
            if provenance and provenance_of(sources[name]["notes"]) != provenance:
                continue
            self._sets[name] = Masks(root / name, name=name, licence=sources[name]["licence_as_stated"])
            self._source_paths[name] = {row["file"]: row["source_path"] for row in _rows(root / name / "files.tsv")}
            entries += [(name, index) for index in range(len(self._sets[name]))]
        self._list(entries, LAYOUT, root)

    def _record(self, entry: tuple[str, int]) -> Record | None:
        name, index = entry
        record = next(self._sets[name].records([index]), None)
        for kind, places in self._sets[name].problems.examples.items():
            for place in places:
                self.problems.add(kind, place)
        if record is None:
            return None
        source = self._source_paths[name][record.image_id]
        if not may_be_learnt(name, source):
            self.problems.add("licence not known", f"{name}/{record.image_id}")
            return None
        return replace(
            record,
            image_id=f"{name}-{record.image_id}",
            group=f"{name}/{picture_group(name, source)}",
            read_ignored=None if name in _STUFF_IGNORED else record.read_ignored,
        )


def provenance_of(notes: str) -> str:
    """'A' or 'B', from the notes of SOURCES.tsv; B where they do not say."""
    return "A" if "provenance A" in notes else "B"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
