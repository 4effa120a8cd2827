"""What the pages are made of: store, registry, queue, pictures, and threads of their own to ask them in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from backend.errors import RegistryError, StoreError
from backend.learning.kept_plan import KeptPlans
from backend.learning.work import saving
from backend.settings import Settings
from backend.store.pseudo_label_store import RECORD_FILE, PseudoLabelRun, PseudoLabelStore
from backend.web.dashboard.actions import LOG_FILE, ActionLog, Actions, Tokens
from backend.web.dashboard.closer import Closer, TaskPage
from backend.web.dashboard.learning import LearningPage, learning_page
from backend.web.dashboard.overview import (
    Pace,
    ProjectCard,
    card_of,
    engine_notices,
    event_notices,
    gone_notices,
    summary_line,
    title_of,
)
from backend.web.dashboard.queue import QueuePage, ReasonKinds, queue_page
from backend.web.dashboard.surroundings import Notice, Surroundings, label_studio_of
from backend.web.dashboard.thumbnails import Picture, Thumbnails, View, sentence_picture
from backend.web.dashboard.trust import Trust, TrustPage
from backend.web.dashboard.versions import work_lines
from backend.web.journal import ASIDE

if TYPE_CHECKING:
    from backend.image_fetcher import ImageFetcher
    from backend.inference.engine import Engine
    from backend.queue import JobQueue
    from backend.store import Store
    from backend.store.head_registry import Registry

THREADS, DRAWING_THREADS = 4, 3
DRAWINGS_WAITING = 96
"""Small pictures that may be at work or wait for a thread."""
OVERVIEW_KEPT_S = 1.0
"""How long the numbers of all projects are kept, however many people look."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Overview:
    """The first page."""

    cards: tuple[ProjectCard, ...]
    troubles: tuple[Notice, ...]
    summary: str


class Dashboard:
    """The parts behind the pages. Safe to share between threads; everything but `run` blocks its caller."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        fetcher: ImageFetcher,
        store: Store | None,
        queue: JobQueue | None,
        registry: Registry | None,
    ) -> None:
        self.settings, self.engine, self.store, self.queue, self.registry = settings, engine, store, queue, registry
        self.surroundings = Surroundings(label_studio_of(settings), queue)
        self.tokens = Tokens()
        self.actions = Actions(store, registry, queue, ActionLog(settings.data_dir / LOG_FILE), settings)
        self._promises = PseudoLabelStore.of(settings)
        self._promises_kept: dict[int, tuple[object, PseudoLabelRun | None]] = {}
        self._pace = Pace()
        self._plans = KeptPlans(settings.data_dir)
        self._lock = threading.Lock()
        self._overview: tuple[float, Overview] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page")
        self._trust = Trust(settings, store, registry) if store is not None else None
        self._drawing = ThreadPoolExecutor(DRAWING_THREADS, thread_name_prefix="thumbnail")
        self._drawings_waiting = 0
        self._closer = Closer(settings, store, registry, self.label_config) if store is not None else None
        self._kinds = ReasonKinds(store) if store is not None else None
        self._thumbnails = (
            Thumbnails(store, fetcher, settings.data_dir / "thumbnails", self.label_config)
            if store is not None
            else None
        )

    def close(self) -> None:
        """Stop taking work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._drawing.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do what waits for the disk in a thread of the pages' own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def picture(self, project: int, task: int, view: View = "small") -> Picture | None:
        """A task's small picture, or a large one; None for a task that is not known, or for want of a store."""
        thumbnails = self._thumbnails
        if thumbnails is None:
            return None
        if self._drawings_waiting >= DRAWINGS_WAITING:
            busy = sentence_picture("Many pictures are being made. Reload the page in a moment.")
            return Picture(busy, "image/svg+xml", failed=True)
        self._drawings_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._drawing, thumbnails.picture, project, task, view)
        finally:
            self._drawings_waiting -= 1

    def queue_page(self, project: int, asked: Mapping[str, str]) -> QueuePage:
        """A page of a project's queue. Raises `StoreError` where there is no store."""
        if self.store is None or self._kinds is None:
            raise StoreError("a store", "none", "start the service with one")
        return queue_page(self.settings, self.store, self._kinds.of(project), project, asked)

    def task_page(self, project: int, task: int, asked: Mapping[str, str]) -> TaskPage | None:
        """The page of one task; None for a task that is not known, or for want of a store."""
        return self._closer.page(project, task, asked) if self._closer is not None else None

    def trust_page(self, project: int, asked: Mapping[str, str]) -> TrustPage:
        """The page of trust of a project, with what would be accepted at an `iou` and `risk` that are `asked`.

        Raises `StoreError` where there is no store.
        """
        if self._trust is None:
            raise StoreError("a store", "none", "start the service with one")
        return self._trust.page(project, *self.promise(project), asked)

    def learning_page(self, project: int) -> LearningPage:
        """The page of what a project has learnt. Raises `StoreError` where there is no store."""
        if self.store is None:
            raise StoreError("a store", "none", "start the service with one")
        version, trouble = None, ""
        try:
            version = self.registry.current(project) if self.registry is not None else None
        except RegistryError as error:
            trouble = str(error)
        rows = self.store.work(project)
        return learning_page(
            self._plans.get(project),
            work_lines(rows),
            saving(rows),
            self.store.classes(project),
            version.learnt_figures if version is not None else {},
            version.version if version is not None else "",
            self.store.served(project),
            trouble,
        )

    def label_config(self, project: int) -> str:
        """A project's labelling configuration, empty while it is not known."""
        known = (self.surroundings.seen().projects or {}).get(project)
        return known.label_config if known is not None else ""

    def known_projects(self) -> list[int]:
        """Projects that are looked after."""
        return self.store.projects() if self.store is not None else []

    def title(self, project: int) -> str:
        """A project's title."""
        return title_of(project, self.surroundings.seen())

    def notices(self, project: int) -> list[Notice]:
        """What every page of a project says of its surroundings."""
        seen = self.surroundings.seen()
        return [*seen.notices, *gone_notices(project, seen)]

    def overview(self) -> Overview:
        """The first page, counted once a second at most."""
        with self._lock:
            if self._overview is None or time.monotonic() - self._overview[0] > OVERVIEW_KEPT_S:
                self._overview = time.monotonic(), self._count()
            return self._overview[1]

    def _count(self) -> Overview:
        seen = self.surroundings.seen()
        known = self.store.overviews() if self.store is not None else []
        self._pace.forget_others([run.id for one in known for run in one.runs.values()])
        cards = []
        for one in known:
            promise, trouble = self.promise(one.project)
            cards.append(card_of(self.settings, one, seen, self._pace, promise, trouble or self._damage(one.project)))
        aside = self.settings.data_dir / "inbox" / ASIDE
        troubles = [
            *engine_notices(self.engine.state, self.engine.checkpoint),
            *seen.notices,
            *event_notices(aside.stat().st_size if aside.exists() else 0),
        ]
        return Overview(tuple(cards), tuple(troubles), summary_line(cards))

    def promise(self, project: int) -> tuple[PseudoLabelRun | None, str]:
        """The record of accepted masks in use, and why it cannot be read. Read again where its files changed."""
        try:
            paths = sorted((self._promises.folder / str(project)).glob(f"*/{RECORD_FILE}"))
            state = [(path.parent.name, path.stat().st_mtime_ns) for path in paths]
            kept = self._promises_kept.get(project)
            if kept is None or kept[0] != state:
                kept = self._promises_kept[project] = state, self._promises.standing(project)
        except (StoreError, OSError) as error:
            return None, str(error)
        return kept[1], ""

    def _damage(self, project: int) -> str:
        """Why a project's pointer cannot be read; empty where it can."""
        try:
            if self.registry is not None:
                self.registry.champion(project)
        except RegistryError as error:
            return str(error)
        return ""
