"""The one record type that every reader yields.

Legend: N instances of one image; H, W its height and width in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

UInt8Image = npt.NDArray[np.uint8]
BoolMask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Instance:
    """One labelled object. `read_mask()` gives its (H, W) boolean mask, decoded on demand."""

    object_id: str
    """Unique within the data set and stable between runs."""
    read_mask: Callable[[], BoolMask] = field(repr=False, compare=False)
    category: str = ""
    parent_id: str = ""
    """For a part: the object it belongs to."""


@dataclass(frozen=True)
class Record:
    """One image as one annotator labelled it."""

    dataset: str
    image_id: str
    """Unique within the data set; the same for all annotators of one image."""
    group: str
    """What a split must keep together: the image itself, or the video it is a frame of."""
    image_path: Path
    instances: tuple[Instance, ...]
    annotator: str = ""
    licence: str = ""
    split: str = ""
    frame: int | None = None
    """Where `image_path` is a video: which of its frames, from 0."""
    read_ignored: Callable[[], BoolMask] | None = field(default=None, repr=False, compare=False)
    """Gives the (H, W) pixels of which nothing is known, which no loss counts; None where there are none."""

    @property
    def forbids_derivatives(self) -> bool:
        """Whether the licence, by its name, lets nobody pass on what is made from the image."""
        return "noderiv" in self.licence.lower().replace("-", "").replace(" ", "")

    def read_image(self) -> UInt8Image:
        """Decode to (H, W, 3) RGB uint8, upright. Raises `ImageError`."""
        if self.frame is not None:
            from usam.research.datasets.video import read_frame

            return read_frame(self.image_path, self.frame)
        from usam.images import read_image

        return read_image(self.image_path)


@dataclass
class Problems:
    """What a reader passed over: counted by kind, with the first few places named."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    keep: int = 5

    def add(self, kind: str, place: str) -> None:
        """Count one problem of `kind` ('empty mask', 'crowd', ...) at `place` (a file or an object id)."""
        self.counts[kind] += 1
        if len(named := self.examples.setdefault(kind, [])) < self.keep:
            named.append(place)

    def summary(self) -> str:
        """One line a kind; an empty string where nothing was passed over."""
        return "\n".join(
            f"{kind}: {count} (such as {', '.join(self.examples[kind][:3])})"
            for kind, count in self.counts.most_common()
        )


class Dataset(Protocol):
    """What every reader is: a sized iterable of records that names what it passed over."""

    name: str
    problems: Problems

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...
