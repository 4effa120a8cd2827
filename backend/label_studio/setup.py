"""What makes an existing Label Studio project work with this backend, done in one go and checked.

A person who connects a backend by hand gets predictions, but often no events (the webhook carries no
authentication, or was silently not made) and a random queue (the project's version is the backend's title,
which no prediction has). Each step here says what it did, found done, or could not do and why.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from backend.errors import LabelConfigError, LabelStudioError
from backend.label_studio.client import UNLABELLED, LabelStudio
from backend.label_studio.config import PROMPTS, parse_config
from backend.label_studio.records import UNCERTAINTY_SAMPLING, MlBackend, Project
from backend.settings import Settings, is_loopback

BACKEND_TITLE = "usam"
VIEW_TITLE = "Most uncertain first"
WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
)

State = Literal["done", "was done", "could not", "advice"]


@dataclass(frozen=True)
class Step:
    """One thing a connection needs. `detail` says what was done, or what stands in the way and what to do."""

    name: str
    state: State
    detail: str

    @property
    def failed(self) -> bool:
        """Whether the project will not work fully because of this step."""
        return self.state == "could not"


def authorization(settings: Settings) -> dict[str, str]:
    """The header a caller needs to be let in; empty where the service asks for none."""
    if token := settings.auth_token.get_secret_value():
        return {"Authorization": f"Bearer {token}"}
    if password := settings.auth_password.get_secret_value():
        pair = f"{settings.auth_user}:{password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
    return {}


def connect(client: LabelStudio, settings: Settings, project_id: int, backend_url: str) -> Iterator[Step]:
    """Connect project `project_id` to the backend at `backend_url` (as Label Studio reaches it), step by
    step.

    Safe to run again. Raises `LabelStudioError` only where the project itself cannot be read.
    """
    project = client.project(project_id)
    backend_url = backend_url.rstrip("/")
    yield from _check_config(project)
    yield from _attempt("backend", lambda: _add_backend(client, settings, project, backend_url))
    yield from _attempt("webhook", lambda: _add_webhook(client, settings, project, backend_url))
    yield from _attempt("queue", lambda: _order_queue(client, project))
    yield from _attempt("version", lambda: _set_version(client, project))
    yield from _attempt("view", lambda: _add_view(client, project))


def _attempt(name: str, step: object) -> Iterator[Step]:
    assert callable(step)
    try:
        yield step()
    except LabelStudioError as error:
        yield Step(name, "could not", str(error))


def _check_config(project: Project) -> Iterator[Step]:
    try:
        controls = parse_config(project.label_config)
    except LabelConfigError as error:
        yield Step("labelling configuration", "could not", str(error))
        return
    if controls.smart:
        names = ", ".join(smart.name for smart in controls.smart)
        yield Step("labelling configuration", "was done", f"masks go to {controls.output.name}; smart: {names}")
    else:
        yield Step(
            "labelling configuration",
            "advice",
            f'masks go to {controls.output.name}, but no control has smart="true", so clicks are not answered; '
            f'add one of {", ".join(PROMPTS[::2])} with smart="true"',
        )


def _add_backend(client: LabelStudio, settings: Settings, project: Project, url: str) -> Step:
    existing = client.ml_backends(project.id)
    fields: dict[str, object] = {"is_interactive": True}
    if settings.auth_user:
        fields |= {
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": settings.auth_user,
            "basic_auth_pass": settings.auth_password.get_secret_value(),
        }
    elif settings.auth_on:
        return Step(
            "backend",
            "could not",
            "Label Studio can send a backend a user and password, but no bearer token; "
            "set USAM_AUTH_USER and USAM_AUTH_PASSWORD",
        )
    ours = next((backend for backend in existing if backend.url.rstrip("/") == url), None)
    if ours is None:
        ours = client.create_ml_backend(project.id, url, BACKEND_TITLE, **fields)
        state: State = "done"
    else:
        ours = client.update_ml_backend(ours.id, project.id, url, **fields)
        state = "was done"
    return _judge_backend(ours, existing, state, url)


def _judge_backend(ours: MlBackend, existing: list[MlBackend], state: State, url: str) -> Step:
    if ours.state not in ("CO", ""):
        return Step("backend", "could not", f"Label Studio does not reach {url}: {ours.error or ours.state}")
    first = min([*existing, ours], key=lambda backend: backend.id)
    if first.id != ours.id:
        return Step(
            "backend",
            "could not",
            f"connected, but Label Studio asks only the first backend, {first.title} at {first.url}; disconnect it",
        )
    return Step("backend", state, f"{url}, answers clicks")


def _add_webhook(client: LabelStudio, settings: Settings, project: Project, url: str) -> Step:
    wanted = f"{url}/webhook"
    headers = authorization(settings)
    hook = next((hook for hook in client.webhooks(project.id) if hook.url.rstrip("/") == wanted), None)
    host = urlsplit(url).hostname or ""
    if hook is None and "." not in host and ":" not in host and not is_loopback(host):
        return Step(
            "webhook",
            "could not",
            f"Label Studio makes no webhook for the one-label host {host!r}; give the backend a name with a dot "
            "(a network alias, say) or use its address. Labels are then learnt from by the timer only",
        )
    if hook is None:
        client.create_webhook(project.id, wanted, headers=headers, actions=WEBHOOK_ACTIONS)
        return Step("webhook", "done", f"made, {wanted}")
    right = hook.active and hook.headers == headers and set(hook.actions) == set(WEBHOOK_ACTIONS)
    if right and not hook.all_actions:
        return Step("webhook", "was done", wanted)
    client.update_webhook(hook.id, wanted, headers=headers, actions=WEBHOOK_ACTIONS)
    return Step("webhook", "done", "given our authentication and the events we use" if headers else wanted)


def _order_queue(client: LabelStudio, project: Project) -> Step:
    hindrances = []
    if project.maximum_annotations > 1:
        hindrances.append(
            f"each task takes {project.maximum_annotations} annotations, and Label Studio then serves "
            "started tasks first"
        )
    if project.show_overlap_first:
        hindrances.append("'show tasks with overlap first' goes before the scores")
    changes: dict[str, object] = {}
    if project.sampling != UNCERTAINTY_SAMPLING:
        changes["sampling"] = UNCERTAINTY_SAMPLING
    if project.evaluates_by_itself:
        # would make every page of the Data Manager wait for predictions
        changes["evaluate_predictions_automatically"] = False
    changes["show_collab_predictions"] = True
    client.update_project(project.id, **changes)
    if hindrances:
        return Step("queue", "advice", "uncertainty sampling is on, but " + " and ".join(hindrances))
    return Step("queue", "done" if "sampling" in changes else "was done", "lowest confidence first")


def _set_version(client: LabelStudio, project: Project) -> Step:
    versions = client.model_versions(project.id)
    current = client.project(project.id).model_version
    if current in versions:
        return Step("version", "was done", current)
    ours = [name for name in versions if "+" in name]
    if ours:
        newest = ours[-1]
        client.set_model_version(project.id, newest)
        return Step("version", "done", f"set to {newest}; it was {current or 'empty'}, which no prediction has")
    return Step(
        "version",
        "advice",
        "no predictions yet: the version is set when the pool has been scored for the first time",
    )


def _add_view(client: LabelStudio, project: Project) -> Step:
    if any(view.title == VIEW_TITLE for view in client.views(project.id)):
        return Step("view", "was done", VIEW_TITLE)
    client.create_view(project.id, VIEW_TITLE, ordering=["tasks:predictions_score"], filters=UNLABELLED)
    return Step("view", "done", VIEW_TITLE)
