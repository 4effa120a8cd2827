"""The service as a model class, for those who already run a `label-studio-ml` server.

It answers with the same `PredictionService` and takes events with the same `Inbox` as our own server does. One class
fits both forms of that library:

- 1.0.9, the release on PyPI: made with `label_config, train_output` when a project is set up, one for all
  projects; `fit((), event=..., data=...)` is called in a process of its own for each event;
- 2.x, from its repository: made with `project_id, label_config` for each request; `fit(event, data)` is
  called within the webhook's request, which Label Studio gives up after a second.

So nothing is kept in the object: a process has one engine, made when first asked for a prediction, and
`fit` notes the event and wakes the queue, whose worker (`usam-backend worker`) does the rest.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.errors import PluginUnavailable
from backend.image_fetcher import ImageFetcher
from backend.inference.engine import Engine
from backend.label_studio.messages import Prediction, PredictRequest, WebhookEvent, project_number
from backend.metrics.service import Metrics
from backend.queue import open_queue
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.inbox import ACTIONS, TRAIN, Inbox
from backend.web.predictions import NOTHING_TO_ASK, PredictionService
from usam.errors import UsamError

try:
    import label_studio_ml.model as server
except ImportError as error:
    raise PluginUnavailable(
        "the package label-studio-ml", str(error), 'install it: pip install "usam[label-studio-ml]"'
    ) from None

UNANSWERED = "unanswered"
"""Version of items that stand for a request that could not be answered: never the one in use, so that Label
Studio asks again instead of keeping them."""
log = logging.getLogger(__name__)


class OpenParts:
    """What one process has open. The engine, which loads a model, is made at its first use only."""

    def __init__(self, settings: Settings) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.pid = os.getpid()
        self.settings = settings
        self.metrics = Metrics()
        self.store = Store(settings.store_url)
        self.queue = open_queue(settings)
        self.inbox = Inbox(self.store, self.queue, self.metrics, settings.data_dir / "inbox", any_project=True)
        self._fetcher: ImageFetcher | None = None
        self._engine: Engine | None = None
        self._answers: PredictionService | None = None
        self._lock = threading.Lock()

    def answers(self) -> PredictionService:
        """What answers for predictions and versions, with the engine behind it."""
        with self._lock:
            if self._answers is None:
                self._engine = Engine(self.settings, self.metrics)
                self._fetcher = ImageFetcher(self.settings)
                registry = Registry(self.settings.registry_dir)
                self._answers = PredictionService(
                    self.settings, self._engine, self._fetcher, self.metrics, registry, self.store
                )
            return self._answers

    def close(self) -> None:
        """Store what was taken, and stop the engine after its present step."""
        self.inbox.close()
        if self._engine is not None:
            self._engine.close()
        if self._fetcher is not None:
            self._fetcher.close()
        self.queue.close()
        self.store.close()


_open: OpenParts | None = None
_opening = threading.Lock()


def parts() -> OpenParts:
    """This process's parts, opened as the environment says. A process that was forked off opens its own.

    Raises `SettingsError`, `StoreError` or `QueueError` where they cannot be opened.
    """
    global _open
    with _opening:
        if _open is None or _open.pid != os.getpid():
            _open = OpenParts(Settings.from_environment())
        return _open


@atexit.register
def close() -> None:
    """Close this process's parts, if it opened any; the next use opens them again."""
    global _open
    with _opening:
        closing, _open = _open, None
    if closing is not None and closing.pid == os.getpid():
        closing.close()


class UsamModel(server.LabelStudioMLBase):  # type: ignore[misc]
    """The model class to name to a `label-studio-ml` server. Its settings are those of the service."""

    TRAIN_EVENTS = tuple(sorted(ACTIONS))
    """1.0.9 calls `fit` for these events only; by itself it would leave out Start Training and deletions."""

    def __init__(self, *given: Any, **named: Any) -> None:
        _report_versions_in_use()
        self._given_config = str(named.get("label_config") or "")
        super().__init__(*given, **named)

    def setup(self) -> None:
        """2.x, at the end of its constructor: note the version in use, which is what `/setup` answers."""
        self.set("model_version", self.version_in_use())

    def set_extra_params(self, extra_params: Any) -> None:
        """2.x keeps texts only, but Label Studio sends an object, which would fail its whole `/setup`."""
        super().set_extra_params(extra_params if isinstance(extra_params, str) else json.dumps(extra_params))

    def version_in_use(self) -> str:
        """Checkpoint, heads and ranking that the project's predictions carry now; the checkpoint alone where
        the heads are not known, since an event's request, which comes through here too, must not fail."""
        opened = parts()
        try:
            answers, project = opened.answers(), self._project(())
            answers.refresh_heads(project)
            return answers.model_version(project)
        except UsamError as error:
            log.warning("the heads in use are not known: %s", error)
            return opened.settings.model

    def predict(self, tasks: Any, context: dict[str, Any] | None = None, **_: Any) -> list[dict[str, Any]]:
        """Exactly one item a task, in their order: masks for a context's prompts, or for what a grid finds.

        A task that fails has an empty result, its reason and a finite score (0..1, lower = served first);
        so have all, where the service as a whole cannot answer. Raises only what `parts` does.
        """
        tasks = tasks if isinstance(tasks, list) else []
        opened = parts()
        request = PredictRequest.model_validate(
            {
                "tasks": tasks,
                "project": self._project(tasks),
                "label_config": self._config(),
                "params": {"context": context},
            }
        )
        try:
            results = opened.answers().predict(request).results
        except Exception as error:
            known = isinstance(error, UsamError)
            log.warning("no predictions: %s", error, exc_info=not known)
            reason = str(error) if known else "an error inside the service; its log says more"
            results = [Prediction(score=NOTHING_TO_ASK, model_version=UNANSWERED, reason=reason)] * len(tasks)
        return [item.model_dump() for item in results]

    def fit(self, *given: Any, **named: Any) -> dict[str, Any]:
        """Note an event and wake the queue; training is a worker's. Returns what 1.0.9 keeps as its output.

        Called as `fit((), event=..., data=..., job_id=..., workdir=...)` by 1.0.9 and as
        `fit(event, data, **kwargs)` by 2.x.
        """
        if given and isinstance(given[0], str):
            named = {**dict(zip(("event", "data"), given, strict=False)), **named}
        action, data = str(named.get("event") or ""), named.get("data")
        payload = {**(data if isinstance(data, dict) else {}), "action": action}
        opened = parts()
        taken = opened.inbox.put(json.dumps(payload).encode())
        project = WebhookEvent.model_validate(payload).project_id
        own_process = "job_id" in named
        if own_process or action == TRAIN:
            opened.inbox.drain()  # 1.0.9 ends this process next; and a retraining comes after its sync
        if action == TRAIN and project is not None:
            opened.queue.wake(project, "retrain")
        if workdir := named.get("workdir"):
            _drop_payload(Path(workdir))
        return {"event": action, "project": project, "taken": taken}

    def _project(self, tasks: Sequence[Any]) -> int | None:
        """The project's number: 2.x says it, 1.0.9 leaves it in the request; else from the tasks."""
        first = tasks[0] if tasks and isinstance(tasks[0], dict) else {}
        candidates = (getattr(self, "project_id", None), _request_body().get("project"), first.get("project"))
        return next((number for found in candidates if (number := project_number(found)) is not None), None)

    def _config(self) -> str:
        """The labelling configuration: the request's, since 1.0.9 gives us that of the last project set up."""
        return str(_request_body().get("label_config") or self._given_config or self.label_config or "")


class _ModelInUse:
    """In place of 1.0.9's pair of model and version, which would call every version `INITIAL` or by the time
    of the last event: Label Studio keeps what `/setup` says, and asks again for tasks whose predictions
    carry another."""

    def __init__(self, model: Any, model_version: Any, is_training: bool = False) -> None:
        self.model, self.is_training = model, is_training
        self._told = model_version

    @property
    def model_version(self) -> Any:
        """The version that the model is in now."""
        return self.model.version_in_use() if isinstance(self.model, UsamModel) else self._told


def _report_versions_in_use() -> None:
    if hasattr(server, "ModelWrapper"):
        server.ModelWrapper = _ModelInUse


def _request_body() -> dict[str, Any]:
    """The request that the server answers in this thread; empty where there is none."""
    try:
        from flask import has_request_context, request
    except ImportError:
        return {}
    body = request.get_json(silent=True) if has_request_context() else None
    return body if isinstance(body, dict) else {}


def _drop_payload(workdir: Path) -> None:
    """Delete 1.0.9's copy of the event: it holds the project's invite token and its task data's password."""
    try:
        (workdir / "event.json").unlink(missing_ok=True)
    except OSError as error:
        log.warning("the server's copy of an event was not deleted: %s", error)
