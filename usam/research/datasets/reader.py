"""What all readers share: a fixed list of entries, one record each, problems counted per pass.

Legend: H, W image height and width in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from usam.errors import DatasetError
from usam.files import plain
from usam.images import load_whole
from usam.research.datasets.record import Instance, Problems, Record
from usam.research.datasets.stored_masks import PackedMask

Entry = TypeVar("Entry")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageAndMask:
    """Two files of one picture."""

    image: Path
    mask: Path


class Reader(ABC, Generic[Entry]):
    """A sized iterable of records. `len` counts what is listed; a record that cannot be used is left out
    of the iteration and named in `problems`, which holds what opening and the latest pass found."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems = Problems()
        self._entries: Sequence[Entry] = ()
        self._found_at_opening = Problems()

    def _list(self, entries: Sequence[Entry], layout: str, root: Path) -> None:
        """Set the entries; raises `DatasetError` when there are none."""
        if not entries:
            found = self.problems.summary() or f"nothing of the kind in {root}"
            raise DatasetError(f"{self.name}: {layout}", found, "point at the data set's root folder")
        self._entries = entries
        self._found_at_opening = deepcopy(self.problems)

    def _pairs(self, images: Path, masks: Path, excluded: Collection[str] = ()) -> list[ImageAndMask]:
        """The images of a folder with the masks of the same names in another; what has no partner is a problem, and so
        is what is `excluded` by its name."""
        by_stem = {path.stem: path for path in images_in(masks)}
        pairs = []
        for image in images_in(images):
            mask = by_stem.pop(image.stem, None)
            if image.stem in excluded:
                self.problems.add("excluded", str(image))
            elif mask is not None:
                pairs.append(ImageAndMask(image, mask))
            else:
                self.problems.add("missing mask", str(image))
        for mask in by_stem.values():
            self.problems.add("missing image", str(mask))
        return pairs

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Record]:
        self.problems = deepcopy(self._found_at_opening)
        for entry in self._entries:
            if (record := self._record(entry)) is not None:
                yield record

    def records(self, indices: Iterable[int]) -> Iterator[Record]:
        """The records at these places of the list (0 to len - 1), in this order, for sharding."""
        self.problems = deepcopy(self._found_at_opening)
        for index in indices:
            if (record := self._record(self._entries[index])) is not None:
                yield record

    @abstractmethod
    def _record(self, entry: Entry) -> Record | None:
        """Read one entry, or name what is wrong with it in `problems` and give None."""

    def _size_of(self, path: Path) -> tuple[int, int] | None:
        """(H, W) of an image as shown upright, from its header; None and a problem when unreadable."""
        try:
            with Image.open(plain(path)) as image:
                width, height = image.size
                if image.getexif().get(0x0112, 1) >= 5:
                    width, height = height, width
        except FileNotFoundError:
            self.problems.add("missing image", str(path))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            self.problems.add("unreadable image", f"{path}: {error}")
        else:
            return height, width
        return None

    def _label_map(self, path: Path, expected_hw: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
        """Read the (H, W) labels of a PNG (palette index or gray), or the (H, W, 3) colours of an RGB one.
        None and a problem when it is missing, unreadable or of another size."""
        try:
            with Image.open(plain(path)) as image:
                load_whole(image, path.read_bytes())
                if image.mode in ("RGBA", "LA"):
                    image = image.convert("RGB" if image.mode == "RGBA" else "L")  # type: ignore[assignment]
                labels = np.asarray(image)
        except FileNotFoundError:
            self.problems.add("missing mask", str(path))
            return None
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            self.problems.add("unreadable mask", f"{path}: {error}")
            return None
        if labels.dtype == np.bool_:
            labels = labels.astype(np.uint8)
        if labels.shape[:2] != expected_hw:
            size = f"{labels.shape[0]} x {labels.shape[1]}"
            self.problems.add("mask of another size", f"{path}: {size}, image {expected_hw[0]} x {expected_hw[1]}")
            return None
        return labels

    def _packed(
        self, object_id: str, mask: npt.NDArray[np.bool_], category: str = "", parent_id: str = ""
    ) -> Instance | None:
        """An instance that keeps its mask packed; None and a problem when the mask is empty."""
        if not mask.any():
            self.problems.add("empty mask", object_id)
            return None
        return Instance(object_id, PackedMask.of(mask), category, parent_id)


def folder(root: Path, *candidates: str, name: str, layout: str) -> Path:
    """The first of `root/candidate` that is a folder. Raises `DatasetError` saying what is there."""
    if not root.is_dir():
        raise DatasetError(f"{name}: {layout}", f"no folder {root}", "point at the data set's root folder")
    for candidate in candidates:
        if (path := root / candidate).is_dir():
            return path
    there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder"
    wanted = " or ".join(f"{candidate}/" for candidate in candidates)
    raise DatasetError(
        f"{name}: {layout}", f"no {wanted} in {root}, which has {there}", "see the layout its owner publishes"
    )


def images_in(path: Path) -> list[Path]:
    """The image files right inside a folder, by name."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != ".")


def names_in(path: Path) -> list[str]:
    """The lines of a list file, stripped, without empty ones."""
    return [name for line in path.read_text(encoding="utf-8").splitlines() if (name := line.strip())]


def chosen_splits(name: str, available: Iterable[str], split: str | None) -> list[str]:
    """All splits, or those whose name is `split` or starts with it ('val' finds 'val2017').

    Raises `DatasetError` when none does.
    """
    splits = sorted(available)
    if split is None:
        return splits
    if split in splits:
        return [split]
    if found := [candidate for candidate in splits if candidate.startswith(split)]:
        return found
    raise DatasetError(f"{name}: one of the splits {', '.join(splits)}", f"'{split}'", "choose one of them")
