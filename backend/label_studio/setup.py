"""What makes an existing Label Studio project work with this backend, done in one go and checked.

A person who connects a backend by hand gets predictions, but often no events (the webhook carries no
authentication, or was silently not made) and a random queue (the project's version is the backend's title,
which no prediction has). `connect` checks first what can be checked without changing anything; then each step says
what it did or found done, and where one fails, what was done before it is taken back.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from backend.addresses import is_loopback
from backend.errors import LabelConfigError, LabelStudioError
from backend.label_studio.client import PREDICTED, UNLABELLED, LabelStudio
from backend.label_studio.config import parse_config
from backend.label_studio.config_xml import shared_names, smart_point
from backend.label_studio.records import UNCERTAINTY_SAMPLING, MlBackend, Project, Webhook
from backend.label_studio.video_config import parse_video_config, takes_masks, takes_video_boxes
from backend.settings import Settings

BACKEND_TITLE = "usam"
MOST_SAID = 5
VIEW_TITLE = "Most uncertain first"
VIDEO_VIEW_TITLE = "Followed, least sure first"
WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
)

State = Literal["done", "was done", "could not", "advice", "taken back"]
Undo = Callable[[], object]


@dataclass(frozen=True)
class Step:
    """One thing a connection needs. `detail` says what was done, or what stands in the way and what to do."""

    name: str
    state: State
    detail: str

    @property
    def failed(self) -> bool:
        """Whether the project is not connected because of this step."""
        return self.state == "could not"


class _Blocked(Exception):
    """A step that cannot be done, and why."""


def authorization(settings: Settings) -> dict[str, str]:
    """The header a caller needs to be let in; empty where the service asks for none."""
    if token := settings.auth_token.get_secret_value():
        return {"Authorization": f"Bearer {token}"}
    if password := settings.auth_password.get_secret_value():
        pair = f"{settings.auth_user}:{password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
    return {}


def connect(
    client: LabelStudio, settings: Settings, project_id: int, backend_url: str, served: str = ""
) -> Iterator[Step]:
    """Connect project `project_id` to the backend at `backend_url` (as Label Studio reaches it), step by step.

    `served` is the version of the last ranking, where there is one. All or nothing: with a step that `failed`, the
    project is as it was. Safe to run again. Raises `LabelStudioError` only where the project cannot be read.
    """
    project = client.project(project_id)
    yield from _Connection(client, settings, project, backend_url.rstrip("/"), served).steps()


def disconnect(client: LabelStudio, project_id: int, backend_url: str = "") -> Iterator[Step]:
    """Take the backend, its webhook and its tab out of a project; labels, predictions and the queue's order stay.

    Without `backend_url`, every backend titled as ours goes. Raises `LabelStudioError` where the project cannot be
    read or a deletion is refused; running it again does the rest.
    """
    try:
        project = client.project(project_id)
    except LabelStudioError as error:
        if error.status != 404 or not error.is_from_label_studio:
            raise
        yield Step("project", "was done", f"Label Studio has no project {project_id}")
        return
    wanted = backend_url.rstrip("/")
    ours = [b for b in client.ml_backends(project.id) if (b.url.rstrip("/") == wanted if wanted else _is_ours(b))]
    urls = {backend.url.rstrip("/") for backend in ours} | ({wanted} if wanted else set())
    # the webhook first: without it no event comes for a backend that is gone
    hooks = [hook for hook in client.webhooks(project.id) if _is_our_hook(hook, urls, any_url=not wanted)]
    for hook in hooks:
        client.delete_webhook(hook.id)
        yield Step("webhook", "done", f"deleted, {hook.url}")
    for backend in ours:
        client.delete_ml_backend(backend.id)
        yield Step("backend", "done", f"deleted, {backend.url}")
    if not hooks and not ours:
        yield Step("backend", "was done", f"no backend {wanted or 'of ours'} in this project")
    for view in client.views(project.id):
        if view.title in (VIEW_TITLE, VIDEO_VIEW_TITLE):
            client.delete_view(view.id)
            yield Step("view", "done", f"deleted, {view.title}")
    yield Step(
        "queue",
        "advice",
        f"labels and predictions stay; tasks still come by {project.sampling.lower()}, version "
        f"{project.model_version or 'none'}: change that in the project's settings if it is not wanted",
    )


def has_backend_of_ours(client: LabelStudio, project_id: int) -> bool:
    """Whether a project has a backend that `connect` made, as far as its title tells."""
    return any(map(_is_ours, client.ml_backends(project_id)))


def _is_ours(backend: MlBackend) -> bool:
    return backend.title == BACKEND_TITLE


def _is_our_hook(hook: Webhook, urls: set[str], *, any_url: bool) -> bool:
    """Whether a webhook belongs to one of these backends or, with `any_url`, asks for just what `connect` asks for, as
    in a project of videos, which has no backend."""
    url = hook.url.rstrip("/")
    is_made_by_us = not hook.all_actions and set(hook.actions) == set(WEBHOOK_ACTIONS) and url.endswith("/webhook")
    return url in {f"{one}/webhook" for one in urls} or (any_url and is_made_by_us)


class _Connection:
    """One run of `connect`: what to do, and how to take it back."""

    def __init__(self, client: LabelStudio, settings: Settings, project: Project, url: str, served: str) -> None:
        self._client, self._settings, self._project, self._url = client, settings, project, url
        self._served = served
        self._undo: list[tuple[str, Undo]] = []
        self._videos_alone = takes_video_boxes(project.label_config) and not takes_masks(project.label_config)

    def steps(self) -> Iterator[Step]:
        """Check, then change; where one step fails, take back what was done."""
        try:
            yield from self._config_steps()
            self._check_address()
            images: tuple[tuple[str, Callable[[], Step]], ...] = (
                ("backend", self._add_backend),
                ("webhook", self._add_webhook),
                ("queue", self._order_queue),
                ("version", self._set_version),
                ("view", self._add_view),
            )
            # Label Studio asks no backend about a box on a video: only events bring it to us
            videos = (("webhook", self._add_webhook), ("queue", self._show_predictions), ("view", self._add_view))
            for name, step in videos if self._videos_alone else images:
                try:
                    yield step()
                except (LabelStudioError, _Blocked) as error:
                    yield Step(name, "could not", str(error))
                    yield from self._take_back()
                    return
        except _Blocked as error:
            yield Step("checks", "could not", f"{error}; nothing was changed")
        except BaseException:  # stopped half-way, from the keyboard too
            for _ in self._take_back():
                pass
            raise

    def _take_back(self) -> Iterator[Step]:
        for name, undo in reversed(self._undo):
            try:
                undo()
            except LabelStudioError as error:
                yield Step(name, "could not", f"take it back: {error}; see the project's settings in Label Studio")
            else:
                yield Step(name, "taken back", "as it was before")
        self._undo.clear()

    # checks: nothing is changed

    def _config_steps(self) -> Iterator[Step]:
        name = "labelling configuration"
        if takes_video_boxes(self._project.label_config):
            box = parse_video_config(self._project.label_config).box
            yield Step(name, "was done", f"a box ({box}) on one frame of a video is followed once it is submitted")
            if self._videos_alone:
                return
        try:
            config = parse_config(self._project.label_config)
        except LabelConfigError as error:
            raise _Blocked(f"{name}: {error}") from error
        for line in shared_names(self._project.label_config)[:MOST_SAID]:
            yield Step(name, "advice", f"{line}, so nobody can tell them apart afterwards: give each a name of its own")
        masks = ", ".join(output.name for output in config.outputs)
        if len(config.images) > 1:
            others = ", ".join(view.image_name for view in config.others)
            yield Step(
                name,
                "advice",
                f"clicks and labels count on each image; proposals and the ranking look at {config.image_name!r} only, "
                f"not at {others}",
            )
        if any(view.smart for view in config.images):
            smart = ", ".join(control.name for view in config.images for control in view.smart)
            yield Step(name, "was done", f"masks go to {masks}; prompts come from {smart}, with Auto-Annotation on")
        else:
            own = config.output.source
            labels = own.labels if own is not None and own.type != "labels" else ()
            tool = smart_point(config.image_name, labels, [control.name for control in config.interface.controls])
            yield Step(
                name,
                "advice",
                f"masks go to {masks}, but no control prompts, so clicks are not answered; add, in the project's "
                f"Settings > Labeling Interface > Code, {tool}",
            )

    def _check_address(self) -> None:
        settings, url = self._settings, self._url
        if settings.auth_on and not settings.auth_user:
            raise _Blocked(
                "Label Studio can send a backend a user and password, but no bearer token; "
                "set USAM_AUTH_USER and USAM_AUTH_PASSWORD"
            )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _Blocked(f"--url {url!r} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not host or port == 0 or parts.query or parts.fragment:
            raise _Blocked(f"--url must be http(s)://host:port as Label Studio reaches the backend, not {url!r}")
        if "." not in host and ":" not in host and not is_loopback(host):
            raise _Blocked(
                f"Label Studio makes no webhook for the one-label host {host!r}, so no label would be learnt from when "
                "it is made; give the backend a name with a dot (a network alias, say) or use its address"
            )

    # steps: each says how it is taken back before it changes anything

    def _add_backend(self) -> Step:
        client, project, url = self._client, self._project, self._url
        existing = client.ml_backends(project.id)
        fields: dict[str, object] = {"is_interactive": True}
        if self._settings.auth_user:
            fields |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": self._settings.auth_user,
                "basic_auth_pass": self._settings.auth_password.get_secret_value(),
            }
        ours = next((backend for backend in existing if backend.url.rstrip("/") == url), None)
        first = min(existing, key=lambda backend: backend.id, default=None)
        if first is not None and first is not ours:
            raise _Blocked(
                f"Label Studio asks only a project's first backend, {first.title} at {first.url}; disconnect that one"
            )
        if ours is None:
            # a refused backend may be kept all the same, with a webhook of its own
            self._undo.append(("backend", self._remove_new_backends({backend.id for backend in existing})))
            self._remember_webhooks()
            self._remember_project(model_version=project.model_version)
            ours = client.create_ml_backend(project.id, url, BACKEND_TITLE, **fields)
            state: State = "done"
        else:
            self._remember_webhooks()
            ours = client.update_ml_backend(ours.id, project.id, url, **fields)
            state = "was done"
        if ours.state not in ("CO", ""):
            raise _Blocked(f"Label Studio does not reach {url}: {ours.error or ours.state}; check --url and the log-in")
        if ours.model_version and "+" not in ours.model_version:
            raise _Blocked(f"{url} is another backend: its version is {ours.model_version!r}; check --url")
        return Step("backend", state, f"{url}, answers clicks")

    def _add_webhook(self) -> Step:
        client, wanted = self._client, f"{self._url}/webhook"
        headers = authorization(self._settings)
        if self._videos_alone:
            self._remember_webhooks()
        hook = next((hook for hook in client.webhooks(self._project.id) if hook.url.rstrip("/") == wanted), None)
        if hook is None:
            client.create_webhook(self._project.id, wanted, headers=headers, actions=WEBHOOK_ACTIONS)
            return Step("webhook", "done", f"made, {wanted}")
        right = hook.active and hook.headers == headers and set(hook.actions) == set(WEBHOOK_ACTIONS)
        if right and not hook.all_actions:
            return Step("webhook", "was done", wanted)
        client.update_webhook(hook.id, wanted, headers=headers, actions=WEBHOOK_ACTIONS)
        return Step("webhook", "done", "given our authentication and the events we use" if headers else wanted)

    def _show_predictions(self) -> Step:
        if self._project.shows_predictions:
            return Step("queue", "was done", "predictions are shown; the order of the tasks stays as it is")
        self._remember_project(show_collab_predictions=False)
        self._client.update_project(self._project.id, show_collab_predictions=True)
        return Step("queue", "done", "predictions are shown; the order of the tasks stays as it is")

    def _order_queue(self) -> Step:
        project = self._project
        blockers = []
        if project.maximum_annotations > 1:
            blockers.append(
                f"each task takes {project.maximum_annotations} annotations, and Label Studio then serves "
                "started tasks first"
            )
        if project.show_overlap_first:
            blockers.append("'show tasks with overlap first' goes before the scores")
        changes: dict[str, object] = {}
        if project.sampling != UNCERTAINTY_SAMPLING:
            changes["sampling"] = UNCERTAINTY_SAMPLING
        if project.evaluates_by_itself:
            # would make every page of the Data Manager wait for predictions
            changes["evaluate_predictions_automatically"] = False
        if not project.shows_predictions:
            changes["show_collab_predictions"] = True
        if changes:
            self._remember_project(
                sampling=project.sampling,
                evaluate_predictions_automatically=project.evaluates_by_itself,
                show_collab_predictions=project.shows_predictions,
            )
            self._client.update_project(project.id, **changes)
        if blockers:
            return Step("queue", "advice", "uncertainty sampling is on, but " + " and ".join(blockers))
        return Step("queue", "done" if changes else "was done", "lowest confidence first")

    def _set_version(self) -> Step:
        """The version that orders the queue must have scores of tasks that are still to be labelled."""
        client, project = self._client, self._project
        counts = client.model_versions(project.id)
        current = client.project(project.id).model_version
        ours = [name for name, count in counts.items() if "+" in name and count]
        best = self._served if self._served in ours else max(ours, key=lambda name: counts[name], default="")
        if current in ours and (current == best or not self._served):
            best = current
        if not best:
            other = f"{current!r} is not ours; " if counts.get(current) else ""
            return Step("version", "advice", f"{other}no ranking yet: the version is set when the pool has been scored")
        if current != best:
            self._remember_project(model_version=project.model_version)
            client.set_model_version(project.id, best)
        scored, left = client.scored_count(project.id), client.unlabelled_count(project.id)
        if left and not scored:
            return Step(
                "version", "advice", f"{best} scores none of the {left} unlabelled tasks until the next ranking"
            )
        was = f"; it was {current or 'empty'}" if current != best else ""
        return Step(
            "version", "done" if was else "was done", f"{best}, {scored} of {left} unlabelled tasks scored{was}"
        )

    def _add_view(self) -> Step:
        title, filters = (VIDEO_VIEW_TITLE, PREDICTED) if self._videos_alone else (VIEW_TITLE, UNLABELLED)
        if any(view.title == title for view in self._client.views(self._project.id)):
            return Step("view", "was done", title)
        self._client.create_view(self._project.id, title, ordering=["tasks:predictions_score"], filters=filters)
        return Step("view", "done", title)

    # how a step is taken back

    def _remove_new_backends(self, before: set[int]) -> Undo:
        def undo() -> None:
            for backend in self._client.ml_backends(self._project.id):
                if backend.id not in before and backend.url.rstrip("/") == self._url:
                    self._client.delete_ml_backend(backend.id)

        return undo

    def _remember_webhooks(self) -> None:
        client, project_id, wanted = self._client, self._project.id, f"{self._url}/webhook"
        before = {hook.id: hook for hook in client.webhooks(project_id) if hook.url.rstrip("/") == wanted}

        def undo() -> None:
            for hook in client.webhooks(project_id):
                if hook.url.rstrip("/") != wanted:
                    continue
                if (old := before.get(hook.id)) is None:
                    client.delete_webhook(hook.id)
                elif old != hook:
                    client.restore_webhook(old)

        self._undo.append(("webhook", undo))

    def _remember_project(self, **fields: object) -> None:
        self._undo.append(("project", lambda: self._client.update_project(self._project.id, **fields)))
