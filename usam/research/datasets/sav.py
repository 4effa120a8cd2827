"""SA-V: videos with masklets, an object's masks over time.

    train      <any folders>/<video>.mp4  <video>_manual.json  [<video>_auto.json]
    val, test  JPEGImages_24fps/<video>/<frame>.jpg  Annotations_6fps/<video>/<object>/<frame>.png
               sav_val.txt or sav_test.txt

A train file holds COCO run lengths for every fourth frame of the 24 a second; frames are read from the video.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader, folder, images_in, names_in
from usam.research.datasets.record import Instance, Record
from usam.research.datasets.stored_masks import MalformedMask, from_run_lengths

LAYOUT = (
    "<video>.mp4 beside <video>_manual.json (train), or "
    "JPEGImages_24fps/<video>/ and Annotations_6fps/<video>/<object>/ (val, test)"
)
LICENCE = "CC BY 4.0"
FRAMES_PER_ANNOTATION = 4
FRAME_COUNT = re.compile(rb'"video_frame_count"\s*:\s*([0-9.]+)')


@dataclass(frozen=True)
class _Moment:
    """One annotated frame: of a video file with its masklets, or an image with a mask file an object."""

    video: str
    split: str
    place: Path
    frame: int
    masklets: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Film:
    """A video with masklets on `count` frames, every fourth."""

    video: str
    file: Path
    masklets: tuple[Path, ...]
    count: int


class _Moments(Sequence[_Moment]):
    """The annotated frames of all films, made when asked for, then those that are files."""

    def __init__(self, films: list[_Film], files: list[_Moment], every: int) -> None:
        self._films, self._files, self._every = films, files, every
        self._ends = list(accumulate(math.ceil(film.count / every) for film in films))

    def __len__(self) -> int:
        return (self._ends[-1] if self._ends else 0) + len(self._files)

    @overload
    def __getitem__(self, index: int) -> _Moment: ...
    @overload
    def __getitem__(self, index: slice) -> list[_Moment]: ...
    def __getitem__(self, index: int | slice) -> _Moment | list[_Moment]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, index)
        before = self._ends[which - 1] if which else 0
        if which == len(self._films):
            return self._files[index - before]
        film = self._films[which]
        return _Moment(film.video, "train", film.file, (index - before) * self._every, film.masklets)


class Sav(Reader[_Moment]):
    """Annotated frames; all of a video in one group. `every` keeps each n-th of them, `auto=True` takes the
    masklets that a model made beside those of people (train only)."""

    def __init__(self, root: Path, split: str | None = None, *, every: int = 1, auto: bool = False) -> None:
        super().__init__("sav")
        self._parsed: tuple[str, dict[Path, dict[str, Any] | None]] = ("", {})
        if not root.is_dir():
            folder(root, name=self.name, layout=LAYOUT)
        extracted = [
            path for path in (root, root / "sav_val", root / "sav_test") if (path / "JPEGImages_24fps").is_dir()
        ]
        frames: list[_Moment] = []
        for path in extracted:
            named = _split_of(path)
            if split in (None, named):
                frames += self._extracted(path, named, every)
        films = self._films(root, auto) if split in (None, "train") else []
        if extracted and not frames and not films:
            raise DatasetError("sav: train, val or test", f"'{split}'", "choose a split that is there")
        self._list(_Moments(films, frames, every), LAYOUT, root)

    def _films(self, root: Path, auto: bool) -> list[_Film]:
        films: list[_Film] = []
        for manual in sorted(root.rglob("*_manual.json")):
            video = manual.name.removesuffix("_manual.json")
            film = manual.with_name(f"{video}.mp4")
            if not film.is_file():
                self.problems.add("missing video", str(film))
                continue
            masklets = [manual]
            if auto and (made := manual.with_name(f"{video}_auto.json")).is_file():
                masklets.append(made)
            if count := self._annotated_frames(manual):
                films.append(_Film(video, film, tuple(masklets), count))
        return films

    def _annotated_frames(self, path: Path) -> int:
        """From the frame count at the head of the file, so that opening 50,000 videos parses none of them."""
        with path.open("rb") as file:
            if found := FRAME_COUNT.search(file.read(4096)):
                return math.ceil(float(found.group(1)) / FRAMES_PER_ANNOTATION)
        document = self._document(path)
        return len(document["masklet"]) if document else 0

    def _extracted(self, root: Path, split: str, every: int) -> list[_Moment]:
        annotations = folder(root, "Annotations_6fps", name=self.name, layout=LAYOUT)
        listed = root / f"sav_{split}.txt"
        videos = names_in(listed) if listed.is_file() else sorted(path.name for path in annotations.iterdir())
        entries: list[_Moment] = []
        for video in videos:
            frames = root / "JPEGImages_24fps" / video
            if not frames.is_dir() or not (annotations / video).is_dir():
                self.problems.add("missing video", str(frames))
                continue
            masks: dict[str, list[Path]] = {}
            for each in sorted(path for path in (annotations / video).iterdir() if path.is_dir()):
                for mask in images_in(each):
                    masks.setdefault(mask.stem, []).append(mask)
            for stem in sorted(masks)[::every]:
                entries.append(_Moment(video, split, frames / f"{stem}.jpg", int(stem), (), tuple(masks[stem])))
        return entries

    def _document(self, path: Path) -> dict[str, Any] | None:
        try:
            document = json.loads(path.read_bytes())
            _ = document["masklet"], document["masklet_id"], document["video_height"], document["video_width"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.problems.add("unreadable annotation", f"{path}: {error!r:.100}")
            return None
        return dict(document)

    def _record(self, entry: _Moment) -> Record | None:
        if entry.masklets:
            number = entry.frame * FRAMES_PER_ANNOTATION
            instances = self._from_masklets(entry)
            frame: int | None = number
        else:
            number, frame = entry.frame, None
            size = self._size_of(entry.place)
            if size is None:
                return None
            instances = self._from_files(entry, size)
        return Record(
            dataset=self.name,
            image_id=f"{entry.video}/{number:05d}",
            group=f"sav/{entry.video}",
            image_path=entry.place,
            instances=tuple(instances),
            licence=LICENCE,
            split=entry.split,
            frame=frame,
        )

    def _from_masklets(self, entry: _Moment) -> list[Instance]:
        instances: list[Instance] = []
        for path in entry.masklets:
            made = path.stem.rsplit("_", 1)[-1]
            document = self._cached(entry, path)
            if document is None or entry.frame >= len(document["masklet"]):
                continue
            size = (int(document["video_height"]), int(document["video_width"]))
            for identity, rle in zip(document["masklet_id"], document["masklet"][entry.frame], strict=False):
                place = f"sav/{entry.video}/{made}-{identity}/{entry.frame * FRAMES_PER_ANNOTATION:05d}"
                try:
                    instances.append(Instance(place, from_run_lengths(rle, *size)))
                except MalformedMask as error:
                    kind = "object out of sight" if error.kind == "empty mask" else error.kind
                    self.problems.add(kind, place if kind != error.kind else f"{place}: {error}")
        return instances

    def _cached(self, entry: _Moment, path: Path) -> dict[str, Any] | None:
        if self._parsed[0] != entry.video:
            self._parsed = (entry.video, {each: self._document(each) for each in entry.masklets})
        return self._parsed[1][path]

    def _from_files(self, entry: _Moment, size: tuple[int, int]) -> list[Instance]:
        instances: list[Instance] = []
        for path in entry.masks:
            object_id = f"sav/{entry.video}/{path.parent.name}/{path.stem}"
            labels = self._label_map(path, size)
            if labels is None:
                continue
            mask = (labels if labels.ndim == 2 else labels.max(axis=2)) > 0
            if mask.any():
                instances += filter(None, [self._packed(object_id, mask)])
            else:
                self.problems.add("object out of sight", object_id)
        return instances


def _split_of(path: Path) -> str:
    for split in ("val", "test"):
        if (path / f"sav_{split}.txt").is_file() or path.name == f"sav_{split}":
            return split
    return ""
