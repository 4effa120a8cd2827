"""What is remembered of images, in memory and on disk, is bounded and never wrong."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.inference.cache import EmbeddingCache, EmbeddingFiles, ImageIndex, ImageRef, content_hash
from backend.settings import Settings
from usam.predictor.embedding import ImageEmbedding

HW = (60, 80)


class Blob:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_cache_is_bounded_and_drops_the_oldest() -> None:
    cache = EmbeddingCache(100)
    for name in "abc":
        cache.put(name, "m", Blob(40))
        cache.get("a", "m")
    assert ("a", "m") in cache
    assert ("b", "m") not in cache
    assert (cache.bytes, cache.evictions, len(cache)) == (80, 1, 2)
    cache.put("a", "m", Blob(60))
    assert cache.bytes == 100
    cache.put("huge", "m", Blob(101))
    assert ("huge", "m") not in cache
    assert cache.get("a", "other checkpoint") is None
    cache.clear()
    assert cache.bytes == len(cache) == 0


def test_index_forgets_the_least_used_address() -> None:
    index = ImageIndex(limit=2)
    for name in ("a", "b"):
        index.put(name, ImageRef(name, HW))
    index.get("a")
    index.put("c", ImageRef("c", HW))
    assert index.get("b") is None
    assert index.get("a") == ImageRef("a", HW)


def test_content_hash_tells_shapes_apart() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    assert content_hash(flat) != content_hash(flat.reshape(6, 4, 3))
    assert content_hash(flat) == content_hash(flat.copy())
    assert content_hash(b"a") != content_hash(b"b")


def embedding(seed: int = 0, checkpoint: str = "nano-s") -> ImageEmbedding:
    torch.manual_seed(seed)
    return ImageEmbedding(torch.randn(1, 8, 4, 4), (torch.randn(1, 1, 16, 16), torch.randn(1, 2, 8, 8)), HW, checkpoint)


SIZE = embedding().nbytes


def test_an_embedding_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    files, kept = EmbeddingFiles(tmp_path, 10 * SIZE), embedding()
    assert files.get("a", "nano-s") is None
    assert files.put("a", "nano-s", kept)
    back = EmbeddingFiles(tmp_path, 10 * SIZE).get("a", "nano-s")
    assert back is not None
    assert (back.image_hw, back.checkpoint, len(back.high_res)) == (HW, "nano-s", 2)
    assert torch.equal(back.image_embed, kept.image_embed)
    assert all(torch.equal(one, other) for one, other in zip(back.high_res, kept.high_res, strict=True))
    assert files.get("b", "nano-s") is None
    assert files.get("a", "nano-m") is None, "another checkpoint never sees it"


def test_files_are_bounded_and_the_least_used_go_first(tmp_path: Path) -> None:
    files = EmbeddingFiles(tmp_path, 3 * (SIZE + 1024))
    for age, name in enumerate("abc"):
        assert files.put(name, "nano-s", embedding(age))
        os.utime(files._path(name, "nano-s"), (age, age))
    assert files.get("a", "nano-s") is not None  # which is used now
    assert not files.put("d", "nano-s", embedding(4), make_room=False)
    assert files.put("d", "nano-s", embedding(4))
    assert [files.get(name, "nano-s") is not None for name in "abcd"] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= files.max_bytes
    assert not EmbeddingFiles(tmp_path, SIZE - 1).put("e", "nano-s", embedding())


def test_a_disk_that_takes_no_more_fails_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writing ends within the file, as on a full disk: safetensors has an error of its own for that."""
    files, before = EmbeddingFiles(tmp_path, 10 * SIZE), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        assert not files.put("a", "nano-s", embedding())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "was not kept on disk" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert files.put("a", "nano-s", embedding())


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "a bit"])
def test_a_damaged_file_counts_as_not_there_and_is_removed(tmp_path: Path, damage: str) -> None:
    files = EmbeddingFiles(tmp_path, 10 * SIZE)
    files.put("a", "nano-s", embedding())
    path = files._path("a", "nano-s")
    if damage == "other":
        files.put("a", "nano-m", embedding(1, "nano-m"))
        os.replace(files._path("a", "nano-m"), path)
    elif damage == "a bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    assert files.get("a", "nano-s") is None
    assert not path.exists()
    assert files.put("a", "nano-s", embedding())
    assert files.get("a", "nano-s") is not None


def test_a_disk_that_fails_is_only_a_cache_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    files = EmbeddingFiles(tmp_path / "file", 10 * SIZE)
    assert not files.put("a", "nano-s", embedding())
    assert files.get("a", "nano-s") is None


def test_nothing_is_kept_without_a_bound_or_of_random_weights(tmp_path: Path) -> None:
    none = EmbeddingFiles.of(Settings(data_dir=tmp_path, embedding_files_bytes=0))
    assert not none.put("a", "nano-s", embedding())
    assert EmbeddingFiles.of(Settings(data_dir=tmp_path, random_weights=True)).max_bytes == 0
    assert list(tmp_path.iterdir()) == []
