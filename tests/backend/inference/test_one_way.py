"""The service's answer without a context and the pool's proposals are the same objects, found by the same function."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage import data

from backend.inference.cache import EmbeddingFiles
from backend.inference.engine import Engine
from backend.inference.intake import SourceImage
from backend.inference.model import LoadedModel
from backend.metrics.service import Metrics
from backend.pool.kept_objects import KeptObjects
from backend.pool.proposals import propose_objects, score_many
from backend.settings import Settings
from usam.images import read_image

PICTURES: dict[str, Callable[[], npt.NDArray[np.uint8]]] = {
    "coffee": data.coffee,
    "chelsea": data.chelsea,
    "astronaut": data.astronaut,
    "coins": lambda: np.stack([data.coins()] * 3, axis=2),
    "camera": lambda: np.stack([data.camera()] * 3, axis=2),
}


def as_png(name: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PICTURES[name]()).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model="nano-m", threads=1, points_per_side=6, data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Any:
    with Engine(settings) as running:
        running.wait_ready(60)
        yield running


@pytest.fixture(scope="module")
def model(settings: Settings) -> LoadedModel:
    from usam.heads.bundled import resolve_heads

    return LoadedModel.load("nano-m", settings, Metrics(), resolve_heads("nano-m", "auto"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_prediction_without_a_context_has_the_pools_objects(
    name: str, engine: Engine, model: LoadedModel, settings: Settings, tmp_path: Path
) -> None:
    file = as_png(name)
    with engine.image(name, lambda: file) as image:
        answered = engine.propose(image).masks
    source = SourceImage.of(file, "nano-m", EmbeddingFiles(tmp_path, 0), read_image)
    found = propose_objects(model, None, source, settings)
    row = found.kept.pack(1, "key", {})
    (pooled,) = score_many(model.own_heads, None, settings, [KeptObjects.unpack(row)])
    rows = pooled.shown.rows.tolist()
    masks = {pooled.kept.mask(number).tobytes() for number in rows}
    assert len(masks) == len(answered) >= 1
    assert {one.mask.tobytes() for one in answered} == masks
    assert [one.iou for one in answered] == pytest.approx([pooled.scores(number).iou for number in rows], abs=2e-3)
    assert (np.diff(pooled.iou[rows]) <= 1e-6).all(), "best first"
