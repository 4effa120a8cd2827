"""The HTTP service that Label Studio talks to. Routes only: what is answered comes from `answers` and
`inbox`.

`/health` and `/webhook` never wait for anything; everything that may is done in threads, clicks in their
own, so that neither a batch nor a model that loads can hold them up. Clicks on pictures that have to be fetched and
decoded first wait apart from those on pictures that are at hand. Errors are JSON without tracebacks.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from backend.addresses import PROCESS_HEADER
from backend.errors import EngineBusy, EngineError
from backend.image_decoding import step_back
from backend.image_fetcher import ImageFetcher
from backend.inference.engine import Engine
from backend.label_studio.config import parse_config
from backend.label_studio.messages import (
    ErrorAnswer,
    HealthAnswer,
    PredictAnswer,
    PredictRequest,
    SetupAnswer,
    SetupRequest,
    Task,
    VersionsAnswer,
    WebhookAnswer,
    WebhookEvent,
    project_number,
)
from backend.metrics.service import Metrics
from backend.metrics.workers import Progress
from backend.pool.next_tasks import NextTasks
from backend.settings import Settings
from backend.web.auth import Access
from backend.web.bodies import SMALL_BYTES, TooMuch, read_message, takes
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.forms import add_forms
from backend.web.dashboard.protocol import HEADERS, render_protocol
from backend.web.dashboard.review import add_review_page
from backend.web.dashboard.routes import add_pages
from backend.web.inbox import Inbox
from backend.web.predictions import PredictionService
from backend.web.project_api import add_project_api
from usam import __version__
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.queue import JobQueue
    from backend.store import Store
    from backend.store.head_registry import Registry

CLICK_THREADS = 16
COLD_THREADS = 16
COLD_WAITING = 64
"""Clicks on pictures that are not at hand that may be at work or wait for a thread."""
MAX_TASKS = 10_000
"""Tasks of one request; it is answered within a minute and a half or not at all."""
BATCH_THREADS = 2
BATCH_WAITING = 8
"""Batch requests that may wait for a thread; Label Studio gives up after 100 s anyway."""
LOADING_RETRY_S = 3
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from others. The usual 5 ms, waited for at each read and write of a
socket while the engine computes, would be most of a webhook's 100 ms."""
EVENT_TAKEN = WebhookAnswer().model_dump_json()
EVENT_DROPPED = WebhookAnswer(status="dropped: the timer will find it").model_dump_json()
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    store: Store | None = None,
    queue: JobQueue | None = None,
    registry: Registry | None = None,
    metrics: Metrics | None = None,
    *,
    alone: bool = False,
) -> FastAPI:
    """The service as an ASGI application; `alone` in its process, it may set the interpreter up for itself.

    What is not given is done without: no store, no memory of events; no queue, no jobs; no registry, no
    project heads. An engine that is not given is made here, and closed when the application stops.
    """
    metrics = metrics or (engine.metrics if engine is not None else Metrics())
    own_engine = engine is None
    engine = engine or Engine(settings, metrics)
    service = Service(settings, engine, store, queue, registry, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for name, value in settings.summary().items():
            log.info("%s=%s", name, value)
        if not settings.auth_on:
            log.warning("no password is asked for: only this machine can be trusted with that")
        freezing = None
        if alone:
            sys.setswitchinterval(SWITCH_S)
            freezing = asyncio.create_task(_freeze_what_stays(engine))
            service.board.surroundings.seen()  # titles are there before the first page is asked for
        yield
        if freezing is not None:
            freezing.cancel()
        service.close()
        if own_engine:
            await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="usam backend",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        description="Masks from SAM 2 that say why they are unsure, for Label Studio.",
        responses={code: {"model": ErrorAnswer} for code in (400, 401, 413, 503)},
    )
    app.state.service = service
    _add_routes(app, service)
    _add_error_handlers(app)
    routes = [getattr(route, "path", "") for route in app.routes]
    app.add_middleware(Access, settings=settings, metrics=metrics, routes=routes)
    return app


class Service:
    """What the routes share: the parts, and the threads that wait for them."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: Store | None,
        queue: JobQueue | None,
        registry: Registry | None,
        metrics: Metrics,
    ) -> None:
        self.settings, self.engine, self.metrics = settings, engine, metrics
        self._store = store
        self._progress = Progress(store) if store is not None else None
        self.fetcher = ImageFetcher(settings)
        self.answers = PredictionService(settings, engine, self.fetcher, metrics, registry, store)
        self.inbox = Inbox(store, queue, metrics, settings.data_dir / "inbox" if store is not None else None)
        self.board = Dashboard(settings, engine, self.fetcher, store, queue, registry)
        self._upcoming = NextTasks(store, settings.prefetch) if store is not None else None
        self._clicks = ThreadPoolExecutor(CLICK_THREADS, thread_name_prefix="click")
        self._cold = ThreadPoolExecutor(COLD_THREADS, "cold-click", step_back)
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parser")
        self._batches = ThreadPoolExecutor(BATCH_THREADS, "batch", step_back)
        self._small = ThreadPoolExecutor(4, thread_name_prefix="small")
        self._batches_waiting = self._cold_waiting = 0

    def close(self) -> None:
        """Stop taking work; what was taken from webhooks is still stored."""
        for pool in (self._clicks, self._cold, self._parser, self._batches, self._small):
            pool.shutdown(wait=False, cancel_futures=True)
        self.board.close()
        self.inbox.close()
        self.fetcher.close()

    async def small(self, work: Callable[[], Result]) -> Result:
        """Something short that may wait for a file or the heads."""
        return await asyncio.get_running_loop().run_in_executor(self._small, work)

    def measured(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return self.metrics.text() + (self._progress.text() if self._progress is not None else b"")

    async def predict(self, raw: bytes) -> bytes:
        """The answer to `/predict` as JSON."""
        loop = asyncio.get_running_loop()
        request, is_warm = await self.parse(raw, lambda: self._read_predict(raw))

        def answer() -> bytes:
            return _json_bytes(self.answers.predict(request))

        if request.interactive:
            if is_warm:
                body = await loop.run_in_executor(self._clicks, answer)
            else:
                body = await self._cold_click(answer)
            self._compute_ahead(request)
            return body
        if self._batches_waiting >= BATCH_WAITING:
            self.metrics.busy.inc()
            raise EngineBusy("room for a batch", f"{BATCH_WAITING} that wait", "try again later", retry_after=30)
        self._batches_waiting += 1
        try:
            return await loop.run_in_executor(self._batches, answer)
        finally:
            self._batches_waiting -= 1

    async def parse(self, raw: bytes, read: Callable[[], Result]) -> Result:
        """What `read` makes of a body; a large one is read in a thread where one waits for the other."""
        pool = self._clicks if len(raw) <= SMALL_BYTES else self._parser
        return await asyncio.get_running_loop().run_in_executor(pool, read)

    async def take_event(self, raw: bytes) -> bool:
        """Take a webhook's event; a small one at once."""
        if len(raw) <= SMALL_BYTES:
            return self.inbox.put(raw)
        return await self.parse(raw, lambda: self.inbox.put(raw))

    def setup(self, raw: bytes) -> str:
        """The version that a project's predictions carry. It connects nothing: anybody may name a project."""
        project_id = project_number(read_message(SetupRequest, raw).project)
        self.answers.refresh_heads(project_id)
        return self.answers.model_version(project_id)

    def _read_predict(self, raw: bytes) -> tuple[PredictRequest, bool]:
        """The request, and whether its pictures are at hand, so that it takes no time but the decoder's."""
        request = read_message(PredictRequest, raw)
        if len(request.tasks) > MAX_TASKS:
            raise TooMuch(f"at most {MAX_TASKS:,} tasks at once", f"{len(request.tasks):,}", "select fewer tasks")
        if not request.interactive:
            return request, False
        try:
            config = parse_config(request.label_config)
            addresses = [config.image_value(Task.model_validate(task).data) for task in request.tasks]
            return request, all(map(self.engine.is_warm, addresses))
        except (UsamError, ValueError):
            return request, False

    async def _cold_click(self, answer: Callable[[], bytes]) -> bytes:
        if self._cold_waiting >= COLD_WAITING:
            self.metrics.busy.inc()
            raise EngineBusy("room for a click", f"{COLD_WAITING} that wait", "click again", retry_after=5)
        self._cold_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._cold, answer)
        finally:
            self._cold_waiting -= 1

    def _compute_ahead(self, request: PredictRequest) -> None:
        """Embeddings of the tasks that this person will see next, while they look at the answer."""
        project, upcoming = request.project_id, self._upcoming
        if upcoming is None or project is None:
            return

        def work() -> None:
            shown = Task.model_validate(request.tasks[0]).id if request.tasks else None
            key = parse_config(request.label_config)
            for number, data in upcoming.after(project, shown):
                address = key.image_value(data)
                self.engine.prefetch(address, lambda a=address, n=number: self.fetcher.fetch_bytes(a, n))  # type: ignore[misc]

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                log.info("nothing was computed ahead: %s", error)

        with suppress(RuntimeError):
            self._small.submit(guarded)


async def _freeze_what_stays(engine: Engine) -> None:
    """Take what a loaded model has brought along, a million objects, out of the garbage collection for good: going
    through them stops every thread for a third of a second."""
    while engine.state == "loading":
        await asyncio.sleep(0.02)
    gc.freeze()


def _add_routes(app: FastAPI, service: Service) -> None:
    def state() -> HealthAnswer:
        return HealthAnswer(status="UP", model_version=service.engine.checkpoint, engine=service.engine.state)

    add_pages(app, service.board, lambda: Response(state().model_dump_json(), media_type="application/json"))
    add_review_page(app, service.board)
    add_forms(app, service.board)
    add_project_api(app, service.board)

    @app.get("/docs", include_in_schema=False)
    @app.get("/redoc", include_in_schema=False)
    async def protocol() -> Response:
        """The protocol as a page, which needs nothing from elsewhere."""
        return HTMLResponse(await service.small(lambda: render_protocol(app.openapi())), headers=HEADERS)

    @app.get("/health", response_model=HealthAnswer)
    async def health(response: Response) -> HealthAnswer:
        """Whether the service is up; it is, also while the model loads."""
        response.headers[PROCESS_HEADER] = str(os.getpid())
        return state()

    @app.post("/setup", response_model=SetupAnswer, openapi_extra=takes(SetupRequest))
    async def setup(request: Request) -> SetupAnswer:
        """The version that predictions for a project carry."""
        raw = await request.body()
        return SetupAnswer(model_version=await service.small(lambda: service.setup(raw)))

    @app.post("/predict", response_model=PredictAnswer, openapi_extra=takes(PredictRequest))
    async def predict(request: Request) -> Response:
        """Masks for clicks (with a context) or for tasks nobody has looked at; one item a task."""
        return Response(await service.predict(await request.body()), media_type="application/json")

    @app.post("/webhook", response_model=WebhookAnswer, openapi_extra=takes(WebhookEvent))
    async def webhook(request: Request) -> Response:
        """Take an event of Label Studio; the work it causes is done later."""
        taken = await service.take_event(await request.body())
        return Response(EVENT_TAKEN if taken else EVENT_DROPPED, media_type="application/json")

    @app.get("/versions", response_model=VersionsAnswer)
    async def versions(project: str = "") -> VersionsAnswer:
        """Versions that can be had, the one in use first. Label Studio does not say for which project."""

        def answer() -> VersionsAnswer:
            service.answers.refresh_heads(project_number(project))
            return VersionsAnswer(versions=service.answers.versions(project_number(project)))

        return await service.small(answer)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters of the service and progress of the workers, for Prometheus."""
        return Response(await service.small(service.measured), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(UsamError)
    async def usam_error(_: Request, error: UsamError) -> Response:
        headers: dict[str, str] = {}
        status = 400
        if isinstance(error, EngineError):
            status, wait = 503, error.retry_after if isinstance(error, EngineBusy) else LOADING_RETRY_S
            headers = {"Retry-After": str(max(1, round(wait)))}
        elif isinstance(error, TooMuch):
            status = 413
        elif service_failed(app, error):
            status = 503
        body = ErrorAnswer(error=str(error), expected=error.expected, got=error.got, remedy=error.remedy)
        return _error(body, status, headers)

    @app.exception_handler(SQLAlchemyError)
    async def store_error(request: Request, error: SQLAlchemyError) -> Response:
        log.warning("%s: the store does not answer: %s", request.url.path, type(error).__name__)
        answer = ErrorAnswer(error="the store does not answer", remedy="try again; clicks need no store")
        return _error(answer, 503, {"Retry-After": str(LOADING_RETRY_S)})

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return _error(ErrorAnswer(error=str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def other_error(request: Request, error: Exception) -> Response:
        log.error("%s failed", request.url.path, exc_info=error)
        answer = ErrorAnswer(error="an error inside the service", remedy="its log says more")
        return _error(answer, 500)


def service_failed(app: FastAPI, error: UsamError) -> bool:
    """Whether an error is ours rather than the caller's: what kept the model from loading."""
    service: Service = app.state.service
    return service.engine.state == "failed" and error.__class__.__module__ == "usam.errors"


def _error(answer: ErrorAnswer, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error as JSON in ASCII: what it quotes may hold signs that are no text."""
    return Response(_json_bytes(answer), status, headers, "application/json")


def _json_bytes(answer: BaseModel) -> bytes:
    return json.dumps(answer.model_dump(), allow_nan=False, separators=(",", ":")).encode()
