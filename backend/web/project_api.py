"""What the page's buttons do, for programs: a call of JSON each, with the same password, written down in the same way.

Another site's page can send none of them: `application/json` is asked for, which a browser sends to a stranger only
after asking, and nobody answers that question.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from backend.errors import QueueError, StoreError
from backend.label_studio.messages import ErrorAnswer
from backend.web.bodies import read_message, takes
from backend.web.dashboard.acceptance import asked_of
from backend.web.dashboard.actions import ActionName, Wish
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.forms import asker
from backend.web.dashboard.routes import number_of
from backend.web.dashboard.trust import state_of
from usam.errors import UsamError
from usam.pseudo_labels.guarantee import RiskGuarantee

REQUESTS_SHOWN = 20
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorAnswer} for code in (403, 404, 415, 421)}
Share = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """A body in which nothing else may stand: what is misspelt would not be done."""

    model_config = ConfigDict(extra="forbid")

    def parts(self) -> dict[str, Any]:
        """What it says of a `Wish`."""
        return dict(self)


class NothingMore(Strict):
    """An object with nothing in it."""


class RollbackCall(Strict):
    """Which version to go back to."""

    version: str = Field(
        min_length=1, max_length=100, description="A version, or `base` for the checkpoint's own heads"
    )


class AcceptCall(Strict):
    """What is promised of the masks that are accepted, as `usam-backend pseudo-label` takes it."""

    iou: Share = Field(description="IoU that an accepted mask is to reach")
    risk: Share = Field(description="Largest share of accepted masks that may miss it")
    confidence: Share = Field(0.9, description="Chance, over audit labels, that this holds")
    per_image: int = Field(3, ge=1, le=100, description="Most masks accepted in an image")
    as_annotations: bool = Field(False, description="Marked annotations of whole images instead of predictions")

    def parts(self) -> dict[str, Any]:
        """The same as a promise of the library's."""
        whole = self.as_annotations
        return {"promise": RiskGuarantee(self.iou, self.risk, self.confidence, self.per_image, whole_images=whole)}


class RightCall(Strict):
    """Which label of `usam-backend review` is right."""

    label: str = Field(min_length=3, max_length=500, description="`key` of the list's line: ANNOTATION/REGION")
    reason: Literal["", "label", "outline", "not marked"] = Field("", description="What it was doubted for; empty: all")


CALLS: dict[ActionName, tuple[type[Strict], str]] = {
    "rollback": (RollbackCall, "Put an earlier version in use; the open tasks are ranked again with it."),
    "train": (NothingMore, "Train now, however few labels are new."),
    "rank": (NothingMore, "Rank the open tasks again, also where their order is right."),
    "accept": (
        AcceptCall,
        "Accept masks without a person, under a promise. A worker does it; `/acceptance` says what came of it.",
    ),
    "take-back": (
        NothingMore,
        "Take back all masks that were accepted without a person; what people made or changed stays.",
    ),
    "right": (
        RightCall,
        "Say that a doubted label is right: it leaves the list of labels worth a second look.",
    ),
    "doubt-again": (RightCall, "Take back that a label is right."),
}
"""What can be asked for: what is sent along, and what is done then."""


class ActionAnswer(BaseModel):
    """What was asked for, and what came of it at once; a worker does the rest."""

    project: int
    action: str
    outcome: str


class RequestAnswer(BaseModel):
    """One request about accepted masks. `state`: waiting, running, done, skipped, refused, failed or replaced; `at` in
    seconds since 1970; `needed`: audit labels that were missing; `done` of `total` steps while it runs."""

    at: float
    who: str
    what: str
    state: str
    words: str
    needed: int
    done: int
    total: int


class AcceptanceAnswer(BaseModel):
    """What is accepted without a person, and what was asked for, the newest first. `state` of the promise: empty where
    nothing is accepted, `in force`, or `withdrawn`."""

    project: int
    state: str
    version: str
    masks: int
    tasks: int
    requests: list[RequestAnswer]


def add_project_api(app: FastAPI, board: Dashboard) -> None:
    """Add the calls to the application."""

    for action, (kind, words) in CALLS.items():
        _add_call(app, board, action, kind, words)

    @app.get("/api/projects/{project}/acceptance", response_model=AcceptanceAnswer, responses=ERRORS)
    async def acceptance(project: str) -> Response:
        """What is accepted without a person, and what came of what was asked for."""

        def answer() -> Response:
            number = number_of(project)
            if board.store is None or number not in board.known_projects():
                return unknown(project)
            record, trouble = board.promise(number)
            if trouble:
                raise StoreError("a readable record of accepted masks", trouble, "run `usam-backend repair`")
            asked = [RequestAnswer(**vars(one)) for one in asked_of(board.store, number, REQUESTS_SHOWN)]
            return json_answer(
                AcceptanceAnswer(
                    project=number,
                    state=state_of(record),
                    version=record.version if record is not None else "",
                    masks=len(record.masks) if record is not None else 0,
                    tasks=len(record.tasks) if record is not None else 0,
                    requests=asked,
                )
            )

        return await answered(board, answer)


def _add_call(app: FastAPI, board: Dashboard, action: ActionName, kind: type[Strict], words: str) -> None:
    @app.post(
        f"/api/projects/{{project}}/{action}",
        response_model=ActionAnswer,
        responses=ERRORS,
        openapi_extra=takes(kind),
        name=action.replace("-", "_"),
        description=words,
    )
    async def do(request: Request, project: str) -> Response:
        raw, who = await request.body(), f"{asker(request)}, by a call"

        def answer() -> Response:
            number = number_of(project)
            if number not in board.known_projects():
                return unknown(project)
            outcome = board.actions.do(Wish(action, number, **read_message(kind, raw).parts()), who)
            return json_answer(ActionAnswer(project=number, action=action, outcome=outcome))

        return await answered(board, answer)


async def answered(board: Dashboard, answer: Callable[[], Response]) -> Response:
    """The answer, made in a thread of the pages'; 503 where what is needed for it is not there."""
    try:
        return await board.run(answer)
    except (QueueError, StoreError) as error:
        return json_answer(error_answer(error), 503)


def error_answer(error: UsamError) -> ErrorAnswer:
    """An error as all routes tell it."""
    return ErrorAnswer(error=str(error), expected=error.expected, got=error.got, remedy=error.remedy)


def unknown(project: str) -> Response:
    """A project that is not looked after."""
    error = ErrorAnswer(
        error=f"project {project[:20]} is not looked after here", remedy="usam-backend connect --project N"
    )
    return json_answer(error, 404)


def json_answer(answer: BaseModel, status: int = 200) -> Response:
    """A message in ASCII: what it quotes may hold signs that are no text."""
    content = json.dumps(answer.model_dump(), separators=(",", ":"))
    return Response(content, status, {"Cache-Control": "no-store"}, "application/json")
