"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from usam.errors import DatasetError
from usam.research.datasets.reader import Reader

READERS = {
    "ade20k": "usam.research.datasets.ade20k:Ade20k",
    "bsds500": "usam.research.datasets.bsds500:Bsds500",
    "coco": "usam.research.datasets.coco:CocoInstances",
    "coco-panoptic": "usam.research.datasets.coco:CocoPanoptic",
    "davis": "usam.research.datasets.video_folders:Davis",
    "dsb2018": "usam.research.datasets.dsb2018:Dsb2018",
    "folders": "usam.research.datasets.folders:Folders",
    "masks": "usam.research.datasets.masks:Masks",
    "mose": "usam.research.datasets.video_folders:Mose",
    "photographs": "usam.research.datasets.photographs:Photographs",
    "sav": "usam.research.datasets.sav:Sav",
    "sceneparse150": "usam.research.datasets.sceneparse150:SceneParse150",
}


def open_dataset(name: str, root: str | Path, /, split: str | None = None, **options: Any) -> Reader[Any]:
    """Open a data set in the layout of its owner.

    `split` is one of the owner's splits, all of them without it; `options` are those of the reader (such as
    `every` for videos). Raises `DatasetError` for an unknown name or option, or when the folder is not laid
    out as expected.
    """
    if name not in READERS:
        raise DatasetError(f"one of the data sets {', '.join(READERS)}", f"'{name}'", "choose one of them")
    module, _, reader = READERS[name].partition(":")
    make: Callable[..., Reader[Any]] = getattr(import_module(module), reader)
    try:
        return make(Path(root), split, **options)
    except TypeError as error:
        if options and "unexpected keyword" in str(error):
            raise DatasetError(f"options that {name} knows", str(error), "see the reader's options") from error
        raise
