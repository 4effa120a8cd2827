"""What every job works with, opened once for a run and closed after it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.errors import JobBusy, SettingsError, reason_of
from backend.image_fetcher import ImageFetcher
from backend.inference.cache import EmbeddingFiles
from backend.inference.intake import SourceImage
from backend.label_studio.client import LabelStudio
from backend.metrics.service import Metrics
from backend.queue import JobQueue, open_queue
from backend.settings import Settings
from backend.store import Store
from backend.store.database import STORE_ERRORS
from backend.store.head_registry import Registry

if TYPE_CHECKING:
    from backend.inference.model import LoadedModel
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding
    from usam.predictor.own_decoder import TunedDecoder

LEASE_S = 60.0
_log = logging.getLogger(__name__)


@dataclass
class Resources:
    """Settings, store, registry, Label Studio, images, queue and, once somebody needs it, the model."""

    settings: Settings
    store: Store
    registry: Registry
    label_studio: LabelStudio
    images: ImageFetcher
    queue: JobQueue
    on_progress: Callable[[Mapping[str, Any]], None] = field(default=lambda progress: None)
    """Told each step of a run, for those who watch Redis."""
    _decoding: LoadedModel | None = field(default=None, init=False, repr=False)

    @cached_property
    def heads(self) -> HeadSet | None:
        """The heads of the checkpoint that the settings name; no model is built to read them."""
        from usam.heads.bundled import resolve_heads

        return resolve_heads(self.settings.model, None if self.settings.heads == "none" else self.settings.heads)

    @cached_property
    def model(self) -> LoadedModel:
        """The checkpoint that the settings name, loaded on first use."""
        from backend.inference.model import LoadedModel

        return LoadedModel.load(self.settings.model, self.settings, Metrics(), self.heads)

    def model_with(self, decoder: TunedDecoder | None) -> LoadedModel:
        """The model with a project's own decoder, None for the checkpoint's; the one asked for last is kept."""
        if decoder is None:
            return self.model
        if self._decoding is None or self._decoding.decoder != decoder.version:
            self._decoding = self.model.with_decoder(decoder)
        return self._decoding

    @cached_property
    def larger(self) -> LoadedModel | None:
        """The larger checkpoint with its own heads, loaded on first use; None where the settings name none."""
        from backend.inference.model import LoadedModel
        from usam.heads.bundled import resolve_heads

        name = self.settings.larger_model
        return LoadedModel.load(name, self.settings, Metrics(), resolve_heads(name, "auto")) if name else None

    @cached_property
    def embeddings(self) -> EmbeddingFiles:
        """The embeddings on disk, which the service and the jobs share."""
        return EmbeddingFiles.of(self.settings)

    def source(self, file: bytes, checkpoint: str) -> SourceImage:
        """An image file as this checkpoint needs it: encoded where it was before, else decoded. Raises `ImageError`."""
        return SourceImage.of(file, checkpoint, self.embeddings, self.images.decode)

    def embedding(self, model: LoadedModel, file: bytes) -> ImageEmbedding:
        """Of an image file: the one on disk, else a new one, which is kept there. Raises `ImageError`."""
        image = self.source(file, model.name)
        embedding = image.encoded_by(model)
        self.embeddings.put(image.content, model.name, embedding)
        return embedding

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Resources]:
        """Open everything. Raises `SettingsError` where Label Studio's address or token is not set."""
        token = settings.label_studio_api_key.get_secret_value()
        if not settings.label_studio_url or not token:
            raise SettingsError("LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY", "at least one is not set", "set both")
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        store, queue, images = Store(settings.store_url), open_queue(settings), ImageFetcher(settings)
        with LabelStudio(settings.label_studio_url, token) as client:
            try:
                registry = Registry(settings.registry_dir)
                yield cls(settings, store, registry, client, images, queue)
            finally:
                images.close()
                queue.close()
                store.close()

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Do what only one may do at a time, here or on another host. Raises `JobBusy` while another does it."""
        holder = f"{socket.gethostname()}:{os.getpid()}"
        if not self.store.acquire(name, holder, LEASE_S):
            raise JobBusy(f"{name} to be free", "another worker at it", "it is tried again by itself")
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_S / 4):
                with suppress(*STORE_ERRORS):
                    self.store.acquire(name, holder, LEASE_S)

        thread = threading.Thread(target=renew, name=f"lease-{name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.store.release(name, holder)

    @contextmanager
    def run(self, project: int, job: str, *, fingerprint: str = "") -> Iterator[RunProgress]:
        """A run record around a job: `failed` with its reason where it raises, else what the job said last."""
        progress = RunProgress(self, self.store.start_run(project, job, fingerprint=fingerprint), job, project)
        try:
            yield progress
        except BaseException as error:
            with suppress(*STORE_ERRORS):  # what went wrong first is what is told
                self.store.finish_run(progress.id, "failed", reason_of(error), progress.details)
            raise
        self.store.finish_run(progress.id, progress.state, progress.reason, progress.details)


@dataclass
class RunProgress:
    """How far a run is. Written to the store at most every half second, so that it costs nothing, and not where the
    store does not answer: the work itself goes on."""

    resources: Resources
    id: int
    job: str
    project: int
    state: str = "done"
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    _told: float = 0.0

    def step(self, done: int, total: int, what: str = "") -> None:
        """Say that `done` of `total` are finished."""
        now = time.monotonic()
        if done < total and now - self._told < 0.5:
            return
        self._told = now
        with suppress(*STORE_ERRORS):
            self.resources.store.update_run(self.id, done=done, total=total)
        self.resources.on_progress({"done": done, "total": total, "what": what})
