"""The messages between Label Studio and this service, and nothing else.

Tolerant to what Label Studio sends: unknown keys are passed over, missing ones have defaults, a null context
is the same as none. Strict on what is answered: a score is a finite number from 0 to 1, never null, because
Label Studio serves a null first and drops a whole batch for a text; `versions` and `setup` are JSON objects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from backend.label_studio.records import MAX_ID

Score = Annotated[FiniteFloat, Field(ge=0, le=1)]
"""Confidence from 0 to 1; Label Studio serves the lowest first."""


def _object_or_empty(value: Any) -> Any:
    return value if isinstance(value, dict) else {}


def _list_of_objects(value: Any) -> Any:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> Any:
    """Text that can be stored: lone surrogates and NUL, which no database takes, become `?`."""
    if not isinstance(value, str | int | float):
        return "" if value is None else value
    try:
        return str(value).encode(errors="replace").decode().replace("\0", "?")
    except ValueError:  # an integer of more digits than Python writes out
        return ""


Object = Annotated[dict[str, Any], BeforeValidator(_object_or_empty)]
Objects = Annotated[list[dict[str, Any]], BeforeValidator(_list_of_objects)]
Text = Annotated[str, BeforeValidator(_text)]


class Message(BaseModel):
    """Base of what is received."""

    model_config = ConfigDict(extra="ignore")


class SetupRequest(Message):
    """`POST /setup`. The access token is passed over on purpose: it may be dead, and is somebody's secret."""

    project: Text = ""
    label_config: Text = Field("", alias="schema")
    hostname: Text = ""
    extra_params: Any = None


class Task(Message):
    """One task of `POST /predict`."""

    id: int | None = Field(None, ge=0, le=MAX_ID)
    data: Object = Field(default_factory=dict)
    predictions: Objects = Field(default_factory=list)
    drafts: Objects = Field(default_factory=list)
    annotations: Objects = Field(default_factory=list)


class Context(Message):
    """What a person drew with a smart tool."""

    result: Objects = Field(default_factory=list)


class PredictParams(Message):
    """`params` of `POST /predict`. Login and password of task data are not used."""

    context: Annotated[Context, BeforeValidator(_object_or_empty)] = Field(default_factory=Context)


class PredictRequest(Message):
    """`POST /predict`, batch or interactive. `tasks` stays raw, so that one bad task harms no other."""

    tasks: list[Any] = Field(default_factory=list)
    project: Text = ""
    label_config: Text = ""
    params: Annotated[PredictParams, BeforeValidator(_object_or_empty)] = Field(default_factory=PredictParams)

    @property
    def project_id(self) -> int | None:
        """The project's number; Label Studio sends `<id>.<created>`."""
        return project_number(self.project)

    @property
    def interactive(self) -> bool:
        """Whether a person waits for the answer to a click."""
        return bool(self.params.context.result)


class WebhookEvent(Message):
    """`POST /webhook`. Any action is taken; the payload is kept as it came."""

    action: Text = ""
    project: Any = None

    @property
    def project_id(self) -> int | None:
        """The project's number, from its object or from a bare id."""
        found = self.project.get("id") if isinstance(self.project, dict) else self.project
        return project_number(found)


class Prediction(BaseModel):
    """One item of the answer to `POST /predict`. `reason` says why `result` is empty, where it is."""

    result: list[dict[str, Any]] = Field(default_factory=list)
    score: Score = 0.0
    model_version: str = Field(min_length=1)
    reason: str | None = None


class PredictAnswer(BaseModel):
    """Answer to `POST /predict`: exactly one item for each task, in their order."""

    results: list[Prediction]


class SetupAnswer(BaseModel):
    """Answer to `POST /setup`."""

    model_version: str = Field(min_length=1)


class HealthAnswer(BaseModel):
    """Answer to `GET /health`."""

    status: str = "UP"
    model_version: str
    engine: str
    """`ready`, `loading`, `failed` or `stopped`."""


class VersionsAnswer(BaseModel):
    """Answer to `GET /versions`, newest first."""

    versions: list[str]


class WebhookAnswer(BaseModel):
    """Answer to `POST /webhook`; an object, which Label Studio needs."""

    status: str = "accepted"


class ErrorAnswer(BaseModel):
    """Body of every error."""

    error: str
    expected: str = ""
    got: str = ""
    remedy: str = ""


def project_number(value: Any) -> int | None:
    """The project id in `2.1795423842`, `"2"` or `2`; None where there is none, or one that Label Studio cannot
    have given."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int):
        return value if 0 < value <= MAX_ID else None
    head = str(value).partition(".")[0].strip()
    return project_number(int(head)) if head.isascii() and head.isdigit() and len(head) <= 19 else None
