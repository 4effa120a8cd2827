"""The versions' page and its forms: what is asked before something is done, and what is taken."""

from __future__ import annotations

from dataclasses import replace

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from backend.web.dashboard.actions import ACTIONS, ActionName, Wish, read_form, who_asks
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.comparison import compared
from backend.web.dashboard.rendering import FORM_HEADERS, HEADERS, render_page, render_still
from backend.web.dashboard.routes import guarded, message, number_of, place_of, project_page, unknown_project
from backend.web.dashboard.versions import BASE_HEADS, BASE_NAME, earlier, versions_page
from usam.errors import UsamError

NAMES: dict[ActionName, str] = {"rollback": "Roll back", "train": "Train now", "rank": "Rank again"}
STALE = "The form is out of date: the service was started anew since, or it was not sent from this page."


def add_forms(app: FastAPI, board: Dashboard) -> None:
    """Add the pages on which something can be done."""

    @app.get("/projects/{project}/versions", include_in_schema=False)
    async def versions(request: Request, project: str) -> Response:
        """A project's versions, with what can be done."""

        def values_of(number: int) -> dict[str, object]:
            page = versions_page(board.store, board.registry, number)
            both = compared(page, request.query_params)
            return {"page": page, "both": both, "log": board.actions.log.last(number), "names": NAMES}

        return await project_page(board, request, project, "versions", values_of)

    @app.get("/projects/{project}/confirm/{action}", include_in_schema=False)
    async def confirm(request: Request, project: str, action: str, version: str = "") -> Response:
        """What would be done, and a button that does it."""
        who = asker(request)
        return await guarded(
            board, request, lambda: question(board, request, project, action, version, who), "../../../"
        )

    @app.post("/projects/{project}/{action}", include_in_schema=False)
    async def act(request: Request, project: str, action: str) -> Response:
        """Do it, and show the versions again."""
        form, who = read_form(await request.body()), asker(request)
        return await guarded(board, request, lambda: answer_to(board, request, project, action, form, who), "../../")


def asker(request: Request) -> str:
    """Who sends a request."""
    return who_asks(request.headers.get("authorization", ""), request.client.host if request.client else "nowhere")


def question(board: Dashboard, request: Request, project: str, action: str, version: str, who: str) -> Response:
    """The page that asks whether something is meant."""
    place = place_of(board, project, "versions")
    if place is None or place.project is None or action not in ACTIONS:
        return unknown_project(request, project, "../../../")
    version = version if action == "rollback" else ""
    wish = Wish(action, place.project, version)
    if action == "rollback":
        page = versions_page(board.store, board.registry, place.project)
        line = earlier(page.lines, version)
        if line is None:
            text = f"{version[:80] or 'No version'} is not one that can be gone back to; it may be in use already."
            return message(404, "No such version", text, root="../../../")
        name = f"`{line.name}`" if line.name else f"the {BASE_HEADS}"
        lines = [
            f"In use now: `{page.in_use}`. Afterwards: {name}.",
            "The open tasks are ranked again with it. No label is lost, and no version is deleted: you can go forward "
            "again in the same way. The next training may put a new version in use.",
        ]
    elif action == "train":
        lines = [
            f"The heads learn all labels of this project now, however few are new: {training_of(board, wish.project)}.",
            "They are put in use only if they are better than those in use; then the open tasks are ranked again.",
        ]
    else:
        lines = [
            "All open tasks are ranked again, also where the order in use is right. What the model said of them is "
            "kept, so this takes seconds, not a new look at every picture.",
            "People go on labelling in the present order until the new one is written.",
        ]
    content = render_still(
        "confirm.html",
        heading=f"{NAMES[wish.action]}: {place.project_title}",
        lines=lines,
        action=f"../{action}",
        token=board.tokens.of(wish, who),
        version=wish.version,
        button=NAMES[wish.action] + {"": "", BASE_NAME: " to the checkpoint's own"}.get(version, f" to {version}"),
    )
    return HTMLResponse(render_page(replace(place, root="../../../"), content), headers=FORM_HEADERS)


def training_of(board: Dashboard, project: int) -> str:
    """How many labels are new."""
    count = board.store.new_labels(project) if board.store is not None else 0
    return f"{count} {'is' if count == 1 else 'are'} new"


def answer_to(
    board: Dashboard, request: Request, project: str, action: str, form: dict[str, str], who: str
) -> Response:
    """Do what a form asks for; a sentence where it is not done."""
    number = number_of(project)
    if action not in ACTIONS or number not in board.known_projects():
        return unknown_project(request, project)
    wish = Wish(action, number, form.get("version", "")[:100] if action == "rollback" else "")
    if not board.tokens.fits(wish, who, form.get("token", "")):
        return message(403, "Not done", STALE, "Go back to Versions and press the button again.", root="../../")
    try:
        board.actions.do(wish, who)
    except UsamError as error:
        return message(503, "Not done", str(error), root="../../")
    return RedirectResponse("versions", 303, headers=HEADERS)
