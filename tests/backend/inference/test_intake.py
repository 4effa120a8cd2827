"""An image is loaded once, only where it is needed, and what waits is bounded in bytes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.errors import EngineBusy
from backend.inference.cache import EmbeddingCache, EmbeddingFiles, content_hash
from backend.inference.intake import ImageIntake, SourceImage
from backend.settings import Settings
from tests.factories import HW, FakeEmbeddings, FakeModel, picture, png
from usam.errors import ImageError

FILE = png(picture())
EMBEDDING: Any = SimpleNamespace(image_hw=HW, nbytes=10)


def intake(folder: Path, cache: EmbeddingCache | None = None, files: Any = None, **settings: Any) -> ImageIntake:
    made = Settings(data_dir=folder, **settings)
    cache = EmbeddingCache(1000) if cache is None else cache
    return ImageIntake(made, "nano-s", cache, files or EmbeddingFiles(folder, 0), lambda why: EngineBusy(why))


def refuse() -> bytes:
    raise AssertionError("the image was asked for")


def test_an_image_whose_embedding_is_at_hand_is_not_loaded(tmp_path: Path) -> None:
    cache = EmbeddingCache(1000)
    images = intake(tmp_path, cache)
    assert not images.is_warm("a")
    with images.open("a", lambda: FILE) as image:
        assert (image.warm, image.hw) == (False, HW)
        np.testing.assert_array_equal(image.pixels, picture())
        cache.put(image.ref.content, "nano-s", EMBEDDING)
    assert images.is_warm("a")
    with images.open("a", refuse) as image:
        assert (image.warm, image.pixels) == (True, None)


def test_an_embedding_of_another_checkpoint_does_not_count(tmp_path: Path) -> None:
    cache = EmbeddingCache(1000)
    cache.put(content_hash(FILE), "nano-m", EMBEDDING)
    images = intake(tmp_path, cache)
    with images.open("a", lambda: FILE):
        pass
    assert not images.is_warm("a")
    with images.open("a", refuse, "nano-m") as image:
        assert image.warm


def test_an_embedding_on_disk_makes_decoding_unnecessary(tmp_path: Path) -> None:
    files: Any = FakeEmbeddings()
    files.put(content_hash(b"no image at all"), "nano-s", EMBEDDING)
    images = intake(tmp_path, files=files)
    with images.open("a", lambda: b"no image at all") as image:
        assert (image.pixels, image.hw) == (None, HW)
    assert images.is_warm("a")


def test_who_asks_while_an_image_waits_need_not_load_it_again(tmp_path: Path) -> None:
    images = intake(tmp_path)
    with images.open("a", lambda: FILE) as first, images.open("a", refuse) as second:
        assert second.pixels is first.pixels


def test_more_bytes_than_may_wait_are_refused_and_room_is_given_back(tmp_path: Path) -> None:
    pixels = np.zeros((700, 800, 3), np.uint8)
    images = intake(tmp_path, pending_bytes=1024 * 1024)
    with images.open("a", lambda: pixels), pytest.raises(EngineBusy), images.open("b", lambda: pixels):
        pass
    with images.open("c", lambda: pixels) as image:
        assert image.held == pixels.nbytes


def test_a_broken_image_leaves_nothing_behind(tmp_path: Path) -> None:
    images = intake(tmp_path)
    for _ in range(2):
        with pytest.raises(ImageError), images.open("a", lambda: b"no image"):
            pass
    with images.open("a", lambda: FILE) as image:
        assert image.hw == HW


def test_an_image_whose_embedding_has_gone_is_loaded_again(tmp_path: Path) -> None:
    cache = EmbeddingCache(1000)
    cache.put(content_hash(FILE), "nano-s", EMBEDDING)
    images = intake(tmp_path, cache)
    with images.open("a", lambda: FILE):
        pass
    with images.open("a", lambda: FILE) as image:
        assert image.warm
        images.reload(image)
        assert not image.warm
        np.testing.assert_array_equal(image.pixels, picture())


def test_a_source_is_encoded_only_where_no_embedding_is_kept() -> None:
    files: Any = FakeEmbeddings()
    model: Any = FakeModel()
    fresh = SourceImage.of(picture(), "nano-s", files, lambda file: picture())
    assert fresh.encoded_by(model).image_hw == fresh.hw == HW
    files.put(fresh.content, "nano-s", EMBEDDING)
    assert SourceImage.of(picture(), "nano-s", files, lambda file: picture()).encoded_by(model) is EMBEDDING
    assert model.encoded == 1
