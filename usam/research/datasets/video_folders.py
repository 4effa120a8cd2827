"""DAVIS and MOSE: a folder of frames and a folder of label maps for each video.

    DAVIS   JPEGImages/<resolution>/<video>/<frame>.jpg   Annotations/<resolution>/<video>/<frame>.png
            ImageSets/<year>/<split>.txt
    MOSE    [<split>/]JPEGImages/<video>/<frame>.jpg      [<split>/]Annotations/<video>/<frame>.png

A label map holds 0 for background and 1, 2, ... for the objects. Where 255 is its only label it means the one
object (DAVIS 2016), beside others it means void.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader, chosen_splits, folder, images_in, names_in
from usam.research.datasets.record import Instance, Record

DAVIS_LAYOUT = "JPEGImages/480p/<video>/, Annotations/480p/<video>/ and ImageSets/<year>/<split>.txt"
MOSE_LAYOUT = "JPEGImages/<video>/ and Annotations/<video>/, or both of them inside train/ or valid/"
VOID = 255


@dataclass(frozen=True)
class _Frame:
    split: str
    video: str
    image: Path
    labels: Path


class _LabelledFrames(Reader[_Frame]):
    """One record for each labelled frame, or for every `every`-th of them; all of a video in one group."""

    licence = ""

    def _frames(self, images: Path, annotations: Path, video: str, split: str, every: int) -> list[_Frame]:
        if not (images / video).is_dir():
            self.problems.add("missing video", str(images / video))
            return []
        frames = []
        for image in images_in(images / video):
            labels = annotations / video / f"{image.stem}.png"
            if labels.is_file():
                frames.append(_Frame(split, video, image, labels))
            else:
                self.problems.add("frame without labels", str(image))
        return frames[::every]

    def _record(self, entry: _Frame) -> Record | None:
        size = self._size_of(entry.image)
        labels = self._label_map(entry.labels, size) if size is not None else None
        if labels is None:
            return None
        if labels.ndim != 2:
            self.problems.add("unreadable mask", f"{entry.labels}: expected palette or gray, got colours")
            return None
        place = f"{self.name}/{entry.video}/{entry.image.stem}"
        values = [int(value) for value in np.flatnonzero(np.bincount(labels.ravel())) if value]
        if VOID in values and len(values) > 1:
            values.remove(VOID)
            self.problems.add("void pixels", place)
        if not values:
            self.problems.add("frame without an object", place)
        found = [self._packed(f"{place}/{value}", labels == value) for value in values]
        instances: list[Instance] = [instance for instance in found if instance is not None]
        return Record(
            dataset=self.name,
            image_id=f"{entry.video}/{entry.image.stem}",
            group=f"{self.name}/{entry.video}",
            image_path=entry.image,
            instances=tuple(instances),
            licence=self.licence,
            split=entry.split,
        )


class Davis(_LabelledFrames):
    """DAVIS 2016 and 2017. Without a split, every video of the image folder.

    `split` names a list in ImageSets ('val', or '2016/val' where the years differ); `every` keeps each n-th
    labelled frame of a video; `resolution` is '480p' or 'Full-Resolution'.
    """

    licence = "CC BY 4.0"

    def __init__(self, root: Path, split: str | None = None, *, every: int = 1, resolution: str = "480p") -> None:
        super().__init__("davis")
        images = folder(root, f"JPEGImages/{resolution}", name=self.name, layout=DAVIS_LAYOUT)
        annotations = folder(root, f"Annotations/{resolution}", name=self.name, layout=DAVIS_LAYOUT)
        videos = _davis_videos(root, images, split)
        entries = [frame for video, named in videos for frame in self._frames(images, annotations, video, named, every)]
        self._list(entries, DAVIS_LAYOUT, root)


class Mose(_LabelledFrames):
    """MOSE, and sets of its layout such as PUMaVOS. `every` keeps each n-th labelled frame of a video."""

    licence = "CC BY-NC-SA 4.0"

    def __init__(self, root: Path, split: str | None = None, *, every: int = 1, licence: str | None = None) -> None:
        super().__init__("mose")
        self.licence = self.licence if licence is None else licence
        nested = [each.name for each in root.iterdir() if (each / "JPEGImages").is_dir()] if root.is_dir() else []
        entries: list[_Frame] = []
        if nested:
            places = [(root / each, each) for each in chosen_splits(self.name, nested, split)]
        elif split is None:
            places = [(root, "")]
        else:
            raise DatasetError(f"mose: {MOSE_LAYOUT}", f"no {split}/ in {root}", "leave the split out")
        for place, named in places:
            images = folder(place, "JPEGImages", name=self.name, layout=MOSE_LAYOUT)
            annotations = folder(place, "Annotations", name=self.name, layout=MOSE_LAYOUT)
            for video in sorted(path.name for path in images.iterdir() if path.is_dir()):
                entries += self._frames(images, annotations, video, named, every)
        self._list(entries, MOSE_LAYOUT, root)


def _davis_videos(root: Path, images: Path, split: str | None) -> list[tuple[str, str]]:
    """(video, split) pairs, each video once; a video that no list names has the split ''."""
    lists = {
        path.relative_to(root / "ImageSets").with_suffix("").as_posix(): path
        for path in sorted((root / "ImageSets").rglob("*.txt"))
    }
    if split is None:
        named = {video: key.split("/")[-1] for key, path in lists.items() for video in names_in(path)}
        return [(path.name, named.get(path.name, "")) for path in sorted(images.iterdir()) if path.is_dir()]
    matching = [path for key, path in lists.items() if key == split or key.split("/")[-1] == split]
    if not matching:
        raise DatasetError(f"davis: one of the lists {', '.join(lists) or '(none)'}", f"'{split}'", DAVIS_LAYOUT)
    videos = sorted({video for path in matching for video in names_in(path)})
    return [(video, split.split("/")[-1]) for video in videos]
