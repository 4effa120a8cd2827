"""What the engine remembers of images: their embeddings, bounded in bytes, and which image an address led to.

An embedding is kept under the content hash of the image file and the checkpoint that made it, so the same
picture under two addresses is encoded once, and no checkpoint ever sees another's. The index from address
to content hash and size is what lets a warm click go without the image.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

INDEX_LIMIT = 100_000
"""Addresses remembered; about 200 bytes each."""


class Sized(Protocol):
    """An embedding, as the cache sees it."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class ImageRef:
    """One image as the engine knows it: content hash and (H, W) of the upright image in pixels."""

    content: str
    hw: tuple[int, int]


class EmbeddingCache:
    """Least recently used embeddings go first once `max_bytes` is reached. Safe to share between threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = self.evictions = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Sized] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._kept

    def get(self, content: str, checkpoint: str) -> Sized | None:
        """The embedding of an image by a checkpoint, None where it is not kept."""
        with self._lock:
            found = self._kept.get((content, checkpoint))
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end((content, checkpoint))
            return found

    def put(self, content: str, checkpoint: str, embedding: Sized) -> None:
        """Keep an embedding, unless it alone is larger than the bound; drop the oldest to make room."""
        size = embedding.nbytes
        with self._lock:
            old = self._kept.pop((content, checkpoint), None)
            self.bytes -= old.nbytes if old is not None else 0
            if size > self.max_bytes:
                return
            while self.bytes + size > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= dropped.nbytes
                self.evictions += 1
            self._kept[content, checkpoint] = embedding
            self.bytes += size

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0


class ImageIndex:
    """Address of an image to what was found there, the least recently used of many forgotten first."""

    def __init__(self, limit: int = INDEX_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._found: OrderedDict[str, ImageRef] = OrderedDict()

    def get(self, address: str) -> ImageRef | None:
        """What was last found at an address."""
        key = _digest(address.encode())
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, address: str, ref: ImageRef) -> None:
        """Remember what is at an address."""
        key = _digest(address.encode())
        with self._lock:
            self._found[key] = ref
            self._found.move_to_end(key)
            while len(self._found) > self._limit:
                self._found.popitem(last=False)


def content_hash(source: bytes | npt.NDArray[np.uint8]) -> str:
    """Hash of an image file's bytes, or of a decoded image (H, W, 3) with its size."""
    if isinstance(source, bytes):
        return _digest(source)
    head = f"{source.shape}".encode()
    return _digest(head + np.ascontiguousarray(source).tobytes())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
