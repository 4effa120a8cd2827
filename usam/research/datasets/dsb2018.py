"""Data Science Bowl 2018, nuclei: one folder an image, one mask file a nucleus.

[stage1_train/]<image id>/images/<image id>.png    <image id>/masks/<any name>.png
"""

from __future__ import annotations

from pathlib import Path

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader, folder, images_in
from usam.research.datasets.record import Record

LAYOUT = "stage1_train/<image id>/images/<image id>.png and stage1_train/<image id>/masks/*.png"


class Dsb2018(Reader[Path]):
    """Nuclei under many microscopes; masks of one image do not overlap."""

    def __init__(self, root: Path, split: str | None = None) -> None:
        super().__init__("dsb2018")
        if split not in (None, "stage1_train"):
            raise DatasetError("dsb2018: the split stage1_train, the one with masks", f"'{split}'")
        top = folder(root, "stage1_train", ".", name=self.name, layout=LAYOUT)
        entries = []
        for path in sorted(path for path in top.iterdir() if path.is_dir()):
            if (path / "images").is_dir() and (path / "masks").is_dir():
                entries.append(path)
            else:
                self.problems.add("folder without images/ or masks/", str(path))
        self._list(entries, LAYOUT, root)

    def _record(self, entry: Path) -> Record | None:
        images = images_in(entry / "images")
        if len(images) != 1:
            self.problems.add("not exactly one image", str(entry / "images"))
            return None
        size = self._size_of(images[0])
        if size is None:
            return None
        instances = []
        for path in images_in(entry / "masks"):
            labels = self._label_map(path, size)
            if labels is None:
                continue
            mask = (labels if labels.ndim == 2 else labels.max(axis=2)) > 0
            if instance := self._packed(f"dsb2018/{entry.name}/{path.stem}", mask, "nucleus"):
                instances.append(instance)
        return Record(
            dataset=self.name,
            image_id=entry.name,
            group=f"dsb2018/{entry.name}",
            image_path=images[0],
            instances=tuple(instances),
            licence="CC0",
            split="stage1_train",
        )
