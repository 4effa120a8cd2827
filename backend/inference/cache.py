"""What is remembered of images: their embeddings, in memory and on disk, and which image an address led to.

An embedding is kept under the content hash of the image file, the checkpoint that made it and, on disk, the type it
was made in, so the same picture under two addresses is encoded once, and none ever sees another's. The index from
address to content hash and size is what lets a warm click go without the image. The files are shared by the service and
its workers, so that an image that somebody looked at is not encoded again when it is labelled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt

from backend.inference.precision import kept_as
from backend.settings import Settings
from usam.files import plain, replacing

if TYPE_CHECKING:
    from torch import Tensor

    from usam.predictor.embedding import ImageEmbedding

INDEX_LIMIT = 100_000
"""Addresses remembered; about 200 bytes each."""
HEADER_BYTES = 1024
"""More than a file's header takes."""
FILES_VERSION = 3
"""Raised when the same checkpoint and image give another embedding, or its file looks otherwise."""
log = logging.getLogger(__name__)


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


class EmbeddingFiles:
    """Embeddings as files of one folder, bounded in bytes, the least recently used removed first.

    For any number of processes: a file appears whole, and one that cannot be read or does not fit its name is removed
    and counts as not there. `max_bytes` of 0 keeps none. No method raises where the disk fails: it is only a cache.
    """

    def __init__(self, folder: Path, max_bytes: int, kept_as: Callable[[str], str] = lambda checkpoint: "") -> None:
        """`kept_as` tells of a checkpoint in what type it encodes, which is part of a file's name."""
        self.folder, self.max_bytes, self._kept_as = folder, max_bytes, kept_as

    @classmethod
    def of(cls, settings: Settings) -> EmbeddingFiles:
        """The service's folder. Random weights are others in each process: nothing is kept then."""
        bound = 0 if settings.random_weights else settings.embedding_files_bytes
        return cls(settings.data_dir / "embeddings", bound, partial(kept_as, settings))

    def get(self, content: str, checkpoint: str) -> ImageEmbedding | None:
        """The embedding of an image by a checkpoint, None where there is none."""
        path = self._path(content, checkpoint)
        if not self.max_bytes or not os.path.exists(path):  # which raises nothing where the folder cannot be read
            return None
        from safetensors import SafetensorError, safe_open

        from usam.predictor.embedding import ImageEmbedding

        try:
            with safe_open(plain(path), framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("checkpoint") != checkpoint:
                    raise ValueError(f"made by {facts.get('checkpoint')!r}")
                high_res, stages = (
                    tuple(file.get_tensor(f"{kind}.{level}") for level in range(int(facts[kind])))
                    for kind in ("high_res", "stages")
                )
                hw = (int(facts["height"]), int(facts["width"]))
                embed = file.get_tensor("image_embed")
                if facts.get("sum") != _sum(embed, *high_res, *stages):
                    raise ValueError("altered since it was written")
                embedding = ImageEmbedding(embed, high_res, hw, checkpoint, stages)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("the embedding %s is removed: %s", path.name, error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return embedding

    def put(self, content: str, checkpoint: str, embedding: ImageEmbedding, *, make_room: bool = True) -> bool:
        """Keep an embedding; whether it is kept. Without `make_room` nothing is removed for it."""
        if embedding.nbytes > self.max_bytes:
            return False
        path = self._path(content, checkpoint)
        if os.path.exists(path):
            return True
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        height, width = embedding.image_hw
        kinds = {"high_res": embedding.high_res, "stages": embedding.stages}
        tensors = {f"{kind}.{level}": part for kind, parts in kinds.items() for level, part in enumerate(parts)}
        tensors["image_embed"] = embedding.image_embed
        facts = {"checkpoint": checkpoint, "height": height, "width": width}
        facts |= {kind: len(parts) for kind, parts in kinds.items()}
        try:
            if not self._has_room(embedding.nbytes + HEADER_BYTES, make_room=make_room):
                return False
            with replacing(path) as written:
                cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                told = {name: str(value) for name, value in facts.items()}
                told["sum"] = _sum(embedding.image_embed, *embedding.high_res, *embedding.stages)
                save_file(cpu, written, told)
        except (OSError, SafetensorError) as error:  # of a full disk it is the latter
            log.warning("an embedding was not kept on disk: %s", error)
            return False
        return True

    def _has_room(self, size: int, *, make_room: bool) -> bool:
        kept = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                kept.append((facts.st_mtime, facts.st_size, path))
        total = sum(file_size for _, file_size, _ in kept) + size
        if total > self.max_bytes and not make_room:
            return False
        for _, file_size, path in sorted(kept, key=lambda file: file[0]):
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        return True

    def _path(self, content: str, checkpoint: str) -> Path:
        from usam.checkpoints.registry import weights_of

        name = f"{FILES_VERSION}:{checkpoint}:{weights_of(checkpoint)}:{content}"
        if dtype := self._kept_as(checkpoint):
            name += f":{dtype}"
        return self.folder / f"{_digest(name.encode())}.safetensors"


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


def _sum(*tensors: Tensor) -> str:
    """A checksum of these tensors: a file whose blocks were lost has the right shapes, and would give other masks."""
    import torch

    total = 0
    for tensor in tensors:
        total = crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def content_hash(source: bytes | npt.NDArray[np.uint8]) -> str:
    """Hash of an image file's bytes, or of a decoded image (H, W, 3) with its size."""
    if isinstance(source, bytes):
        return _digest(source)
    head = f"{source.shape}".encode()
    return _digest(head + np.ascontiguousarray(source).tobytes())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
