"""Small data sets in the layouts of their owners, written where a test asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 40, 60
Array = npt.NDArray[Any]


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """(H, W, 3) of smooth noise, another one for each seed."""
    rough = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def disc(x: float = 30, y: float = 20, radius: float = 9, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """A (H, W) boolean disc."""
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def save(path: Path, array: Array, palette: bool = False) -> Path:
    """Write an image, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    if palette:
        image = image.convert("P") if image.mode != "L" else Image.fromarray(np.asarray(array, np.uint8), "L")
    image.save(path)
    return path


def coco(root: Path, annotations: list[dict[str, Any]], images: int = 1) -> Path:
    """COCO's instances of a split 'val2017', on `images` pictures with ids from 1."""
    for number in range(1, images + 1):
        save(root / "val2017" / f"{number:012d}.jpg", picture(number))
    document = {
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "height": HEIGHT, "width": WIDTH, "license": 4}
            for n in range(1, images + 1)
        ],
        "annotations": [
            {"id": 100 + place, "image_id": 1, "category_id": 7, "iscrowd": 0, **each}
            for place, each in enumerate(annotations)
        ],
        "categories": [{"id": 7, "name": "train"}],
        "licenses": [{"id": 4, "name": "Attribution License"}],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root


def run_lengths(mask: Array) -> dict[str, Any]:
    """A mask as COCO's plain run lengths, column by column, background first."""
    flat = mask.T.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": ([0, *runs] if flat[0] else runs)}


def video(root: Path, images: str, labels: str, frames: int = 4, name: str = "dance") -> None:
    """Frames of a video and their label maps: object 1 moves, object 2 stays."""
    for number in range(frames):
        save(root / images / name / f"{number:05d}.jpg", picture(number))
        drawn = disc(10 + 2 * number, 15, 6) * 1 + disc(45, 25, 8) * 2
        save(root / labels / name / f"{number:05d}.png", drawn)
