"""Images on their way to the model: found by address, loaded once, bounded in bytes while they wait.

What happens here happens in the caller's thread: loading, hashing and decoding an image, or reading its embedding from
disk, which makes both the decoding and the model's encoding unnecessary.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from backend.errors import EngineBusy
from backend.inference.cache import EmbeddingCache, EmbeddingFiles, ImageIndex, ImageRef, content_hash
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.inference.model import LoadedModel
    from usam.predictor.embedding import ImageEmbedding

UInt8Image = npt.NDArray[np.uint8]
LoadImage = Callable[[], "bytes | UInt8Image"]
"""Gives an image file's bytes, or the decoded image; called in the caller's thread, and only when needed."""


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image by content hash: its embedding by one checkpoint where that is on disk, else its pixels (H, W, 3), which
    `decode` gives in either case."""

    content: str
    embedding: ImageEmbedding | None
    pixels: UInt8Image | None
    decode: Callable[[], UInt8Image]

    @classmethod
    def of(
        cls,
        source: bytes | UInt8Image,
        checkpoint: str,
        files: EmbeddingFiles,
        decode: Callable[[bytes], UInt8Image],
    ) -> SourceImage:
        """From an image file's bytes or pixels. Raises what `decode` raises."""
        content = content_hash(source)

        def pixels() -> UInt8Image:
            return decode(source) if isinstance(source, bytes) else source

        embedding = files.get(content, checkpoint)
        return cls(content, embedding, None if embedding is not None else pixels(), pixels)

    def read_pixels(self) -> UInt8Image:
        """(H, W, 3), decoded where they are not at hand. Raises what decoding raises."""
        return self.pixels if self.pixels is not None else self.decode()

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W) of the upright image in pixels."""
        if self.embedding is not None:
            return self.embedding.image_hw
        return (self.pixels.shape[0], self.pixels.shape[1]) if self.pixels is not None else (0, 0)

    def encoded_by(self, model: LoadedModel) -> ImageEmbedding:
        """Its embedding by the checkpoint that it was read for."""
        if self.embedding is None and self.pixels is not None:
            return model.encode(self.pixels)
        return cast("ImageEmbedding", self.embedding)


@dataclass(eq=False)
class OpenImage:
    """An image that a caller works on. `pixels` (H, W, 3) are there only where its embedding was not at hand."""

    address: str
    load: LoadImage
    ref: ImageRef
    pixels: UInt8Image | None
    opened_at: float = field(default_factory=time.perf_counter)
    warm: bool = True
    """Whether neither loading nor encoding was needed so far."""
    held: int = 0
    """Bytes of pixels that are counted as waiting."""

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W) of the upright image in pixels."""
        return self.ref.hw


class ImageIntake:
    """Opens images for one checkpoint. `busy` makes the error that callers get beyond the bounds."""

    def __init__(
        self,
        settings: Settings,
        checkpoint: str,
        cache: EmbeddingCache,
        files: EmbeddingFiles,
        busy: Callable[[str], EngineBusy],
    ) -> None:
        self._settings, self._checkpoint, self._busy = settings, checkpoint, busy
        self._cache, self._files = cache, files
        self._index = ImageIndex()
        self._lock = threading.Lock()
        self._loaders: dict[str, threading.Lock] = {}
        self._waiting: dict[str, tuple[ImageRef, UInt8Image | None]] = {}
        """Images that wait for their encoding: who asks meanwhile need not load them again."""
        self._pending_bytes = 0

    def is_warm(self, address: str) -> bool:
        """Whether working on this image would need neither the image nor an encoding."""
        return self._warm_ref(address) is not None

    @contextlib.contextmanager
    def open(self, address: str, load: LoadImage, checkpoint: str = "") -> Iterator[OpenImage]:
        """An image, loaded only where its embedding by `checkpoint` (ours where none is named) is not at hand.

        Raises what `load` raises, `ImageError` where it is no image, and `EngineBusy` where too many bytes wait.
        """
        wanted = checkpoint or self._checkpoint
        started = time.perf_counter()
        ref = self._warm_ref(address, wanted)
        image = OpenImage(address, load, ref, None, started) if ref is not None else self._loaded(address, load, wanted)
        try:
            self._hold(image)
            yield image
        finally:
            self._waiting.pop(address, None)
            self._release(image)

    def reload(self, image: OpenImage) -> None:
        """Load the pixels of an image whose embedding has gone meanwhile."""
        source = image.load()
        pixels = self._decode(source) if isinstance(source, bytes) else source
        image.ref = ImageRef(content_hash(source), (pixels.shape[0], pixels.shape[1]))
        image.pixels, image.warm = pixels, False
        self._hold(image)

    def _warm_ref(self, address: str, checkpoint: str = "") -> ImageRef | None:
        ref = self._index.get(address)
        return ref if ref is not None and (ref.content, checkpoint or self._checkpoint) in self._cache else None

    def _loaded(self, address: str, load: LoadImage, checkpoint: str) -> OpenImage:
        """Two callers that need the same image load it one after the other: the second finds it there."""
        started = time.perf_counter()
        with self._lock:
            lock = self._loaders.setdefault(address, threading.Lock())
        try:
            with lock:
                ref, pixels = self._warm_ref(address, checkpoint), None
                if ref is None:
                    ref, pixels = self._waiting.get(address) or self._read(load, checkpoint)
                    self._waiting[address] = ref, pixels
                    self._index.put(address, ref)
        finally:
            with self._lock:
                self._loaders.pop(address, None)
        return OpenImage(address, load, ref, pixels, started, warm=False)

    def _read(self, load: LoadImage, checkpoint: str) -> tuple[ImageRef, UInt8Image | None]:
        source = SourceImage.of(load(), checkpoint, self._files, self._decode)
        ref = ImageRef(source.content, source.hw)
        if source.embedding is not None:
            self._cache.put(source.content, checkpoint, source.embedding)
        return ref, source.pixels

    def _decode(self, file: bytes) -> UInt8Image:
        from backend.image_decoding import decode_image

        return decode_image(file, self._settings)

    def _hold(self, image: OpenImage) -> None:
        """Count a decoded image while it waits for the model. Raises `EngineBusy` beyond the bound."""
        size = image.pixels.nbytes if image.pixels is not None else 0
        with self._lock:
            full = self._pending_bytes > image.held and self._pending_bytes + size > self._settings.pending_bytes
            if not full:
                self._pending_bytes += size - image.held
                image.held = size
        if full:
            raise self._busy("the images that wait for the model take too much memory")

    def _release(self, image: OpenImage) -> None:
        with self._lock:
            self._pending_bytes -= image.held
            image.held = 0
