"""A small labelled set in COCO's layout, and a table of its tokens by the untrained nano models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

HEIGHT, WIDTH = 60, 80


def box_polygon(rng: np.random.Generator) -> list[float]:
    x0, y0 = rng.uniform(2, WIDTH - 34), rng.uniform(2, HEIGHT - 24)
    x1, y1 = x0 + rng.uniform(12, 30), y0 + rng.uniform(8, 20)
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def picture(rng: np.random.Generator) -> npt.NDArray[Any]:
    rough = rng.integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(rough, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def write_set(root: Path, images: int) -> Path:
    """`images` pictures with one to three objects each and one object without a pixel."""
    rng = np.random.default_rng(5)
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    annotations: list[dict[str, Any]] = []
    listed = []
    for number in range(1, images + 1):
        Image.fromarray(picture(rng)).save(root / "val2017" / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for _ in range(1 + number % 3):
            annotations.append({"image_id": number, "segmentation": [box_polygon(rng)]})
    annotations.append({"image_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}})
    document = {
        "images": listed,
        "annotations": [
            {"id": place, "category_id": 1, "iscrowd": 0, **each} for place, each in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures, 14 objects."""
    return write_set(tmp_path_factory.mktemp("labelled"), 7)


@pytest.fixture(scope="session")
def folder(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of `labelled` by the untrained nano models, with entropies, two pictures a shard."""
    from usam.research.datasets import open_dataset
    from usam.research.tokens import TokenSettings, extract_tokens
    from usam.research.tokens.models import untrained_predictor

    out = tmp_path_factory.mktemp("tokens")
    settings = TokenSettings(entropies=True, shard_size=2)
    extract_tokens(open_dataset("coco", labelled), out, ["nano-s", "nano-m"], settings, load_model=untrained_predictor)
    return out
