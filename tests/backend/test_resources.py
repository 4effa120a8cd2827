"""Nothing is loaded that is not used: heads are read by themselves, an embedding on disk is not made again."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError

from backend.image_fetcher import ImageFetcher
from backend.inference.model import LoadedModel
from backend.pool.policy import heads_in_use, mask_selection_in_use
from backend.resources import Resources
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    settings = Settings(model="nano-s", threads=1, data_dir=tmp_path)
    store = Store(settings.store_url)
    fetcher, nobody = ImageFetcher(settings), None
    return Resources(settings, store, Registry(settings.registry_dir), nobody, fetcher, nobody)  # type: ignore[arg-type]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_heads_are_read_without_building_a_model(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was built to read heads")

    monkeypatch.setattr(LoadedModel, "load", refuse)
    monkeypatch.setattr("usam.checkpoints.registry.build_model", refuse)
    heads, passed_over = heads_in_use(resources, 1)
    assert heads is resources.heads
    assert passed_over == ""
    assert mask_selection_in_use(resources, 1, heads) in ("predicted-iou", "samscore")
    assert resources.larger is None, "none is named"
    with pytest.raises(AssertionError, match="was built"):
        _ = resources.model


class CountingModel:
    """A model that only counts what it encodes."""

    name = "nano-s"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, pixels: np.ndarray[Any, Any]) -> Any:
        import torch

        from usam.predictor.embedding import ImageEmbedding

        self.encoded += 1
        high_res = (torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 8, 8))
        height, width = pixels.shape[:2]
        return ImageEmbedding(torch.full((1, 8, 4, 4), float(self.encoded)), high_res, (height, width), "nano-s")


def test_an_image_that_was_looked_at_is_not_encoded_for_its_labels(resources: Resources) -> None:
    model: Any = CountingModel()
    first = resources.embedding(model, png(1))
    del resources.embeddings  # as another process, which knows the folder alone
    again = resources.embedding(model, png(1))
    assert model.encoded == 1
    assert again.image_hw == first.image_hw == (60, 80)
    assert (again.image_embed == first.image_embed).all()
    resources.embedding(model, png(2))
    assert model.encoded == 2


def test_work_goes_on_while_the_store_starts_again(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        raise OperationalError("UPDATE", None, ConnectionError("the server closed the connection"))

    def work() -> None:
        with resources.run(1, "sync") as progress:
            monkeypatch.setattr(resources.store, "update_run", nothing)
            progress.step(2, 2)
            raise ValueError("the job's own")

    with pytest.raises(ValueError, match="the job's own"):
        work()


def test_a_lease_is_renewed_once_the_store_answers_again(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.resources.LEASE_S", 0.04)
    real, calls, again = resources.store.acquire, list[int](), threading.Event()

    def acquire(name: str, holder: str, seconds: float) -> bool:
        calls.append(1)
        if len(calls) in (2, 3):
            raise OperationalError("UPDATE", None, ConnectionError("the server closed the connection"))
        if len(calls) > 3:
            again.set()
        return real(name, holder, 60)

    monkeypatch.setattr(resources.store, "acquire", acquire)
    with resources.lease("sync-1"):
        assert again.wait(20)
