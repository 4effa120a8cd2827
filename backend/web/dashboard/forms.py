"""The versions' page, and all forms: what is asked before something is done, and what is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from backend.web.dashboard.acceptance import promise_of
from backend.web.dashboard.actions import ACTIONS, ActionName, Wish, read_form, who_asks
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.comparison import compared
from backend.web.dashboard.rendering import FORM_HEADERS, HEADERS, render_page, render_still
from backend.web.dashboard.routes import guarded, message, number_of, place_of, project_page, unknown_project
from backend.web.dashboard.versions import (
    BASE_HEADS,
    BASE_NAME,
    VersionLine,
    VersionsPage,
    earlier,
    versions_page,
)
from usam.errors import UsamError
from usam.pseudo_labels.guarantee import RiskGuarantee

NAMES: Mapping[ActionName, str] = {
    "rollback": "Roll back",
    "train": "Train now",
    "rank": "Rank again",
    "accept": "Accept masks",
    "take-back": "Take masks back",
    "right": "It is right",
    "doubt-again": "Doubt it again",
}
PAGES: Mapping[str, str] = {
    "rollback": "versions",
    "train": "versions",
    "rank": "versions",
    "accept": "trust",
    "take-back": "trust",
    "right": "review",
    "doubt-again": "review",
}
"""The page that shows what came of it."""
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
    async def confirm(request: Request, project: str, action: str) -> Response:
        """What would be done, and a button that does it."""
        who, given = asker(request), request.query_params
        return await guarded(board, request, lambda: question(board, request, project, action, given, who), "../../../")

    @app.post("/projects/{project}/{action}", include_in_schema=False)
    async def act(request: Request, project: str, action: str) -> Response:
        """Do it, and show the versions again."""
        form, who = read_form(await request.body()), asker(request)
        return await guarded(board, request, lambda: answer_to(board, request, project, action, form, who), "../../")


def asker(request: Request) -> str:
    """Who sends a request."""
    return who_asks(request.headers.get("authorization", ""), request.client.host if request.client else "nowhere")


def question(
    board: Dashboard, request: Request, project: str, action: str, given: Mapping[str, str], who: str
) -> Response:
    """The page that asks whether something is meant."""
    place = place_of(board, project, PAGES.get(action, "versions"))
    if place is None or place.project is None or action not in ACTIONS:
        return unknown_project(request, project, "../../../")
    wish = wish_for(action, place.project, given)
    button = NAMES[wish.action]
    if wish.action == "rollback":
        page = versions_page(board.store, board.registry, place.project)
        line = earlier(page.lines, wish.version)
        if line is None:
            text = f"{wish.version[:80] or 'No version'} is not one that can be gone back to; it may be in use already."
            return message(404, "No such version", text, root="../../../")
        lines = rollback_lines(page, line)
        button += " to the checkpoint's own" if wish.version == BASE_NAME else f" to {wish.version}"
    elif wish.action in LINES:
        lines = LINES[wish.action](board, wish)
    else:  # its page has the whole form
        return unknown_project(request, project, "../../../")
    content = render_still(
        "confirm.html",
        heading=f"{NAMES[wish.action]}: {place.project_title}",
        lines=lines,
        action=f"../{action}",
        fields={"token": board.tokens.of(wish, who), **fields_of(wish)},
        button=button,
        back=PAGES[wish.action],
    )
    return HTMLResponse(render_page(replace(place, root="../../../"), content), headers=FORM_HEADERS)


def wish_for(action: ActionName, project: int, given: Mapping[str, str]) -> Wish:
    """What an address or a form asks for; what it does not say, or says wrong, is as the page has it at first."""
    if action == "rollback":
        return Wish(action, project, given.get("version", "")[:100])
    if action in ("right", "doubt-again"):
        return Wish(action, project, label=given.get("label", "")[:500], reason=given.get("reason", "")[:40])
    return Wish(action, project, promise=promise_of(given) if action == "accept" else None)


def fields_of(wish: Wish) -> dict[str, str]:
    """What a form carries of a wish, beside its token."""
    if wish.promise is None:
        return {"version": wish.version}
    return {name: f"{getattr(wish.promise, name):g}" for name in ("iou", "risk", "confidence")}


def rollback_lines(page: VersionsPage, to: VersionLine) -> list[str]:
    """What a roll-back does."""
    name = f"`{to.name}`" if to.name else f"the {BASE_HEADS}"
    return [
        f"In use now: `{page.in_use}`. Afterwards: {name}.",
        "The open tasks are ranked again with it. No label is lost, and no version is deleted: you can go forward "
        "again in the same way. The next training may put a new version in use.",
    ]


def training_lines(board: Dashboard, wish: Wish) -> list[str]:
    """What a training does."""
    return [
        f"The heads learn all labels of this project now, however few are new: {training_of(board, wish.project)}.",
        "They are put in use only if they are better than those in use; then the open tasks are ranked again.",
    ]


def ranking_lines(_board: Dashboard, _wish: Wish) -> list[str]:
    """What a ranking does."""
    return [
        "All open tasks are ranked again, also where the order in use is right. What the model said of them is "
        "kept, so this takes seconds, not a new look at every picture.",
        "People go on labelling in the present order until the new one is written.",
    ]


def accepting_lines(board: Dashboard, wish: Wish) -> list[str]:
    """What accepting masks does."""
    promise = wish.promise or RiskGuarantee()
    estimate = board.trust_page(wish.project, fields_of(wish)).what_if
    lines = [
        f"Promised of the masks that are accepted: at most {promise.risk:.0%} of them overlap their object by less "
        f"than IoU {promise.iou:g}; this holds with confidence {promise.confidence:.0%}. Of a picture, at most "
        f"{promise.per_image} masks.",
    ]
    if estimate is not None:
        lines.append(f"By the labelled audits: {estimate.asked.line}")
    lines.append(
        "A worker judges the proposals of all open tasks. Where the audits do not bear the promise out, nothing is "
        "accepted, and the page says how many more are needed."
    )
    lines.append(
        "What is accepted goes to Label Studio as predictions of a version of their own, in place of masks that were "
        "accepted so before. Nobody's annotation is changed, audit tasks are left to people, and all can be taken back."
    )
    return lines


def taking_back_lines(board: Dashboard, wish: Wish) -> list[str]:
    """What taking back does."""
    record, trouble = board.promise(wish.project)
    if record is not None:
        first = f"In use now: {len(record.masks):,} masks on {len(record.tasks):,} tasks, as `{record.version}`."
    else:
        first = (
            f"It cannot be read what is accepted: {trouble}" if trouble else "Nothing is accepted, as far as is known."
        )
    return [
        f"{first} All that was accepted without a person is removed from Label Studio, also what a run that was cut "
        "short has left.",
        "An annotation in which a person has changed or added anything stays, and so do all that people made. The "
        "record and the exported masks stay in the data folder.",
    ]


LINES: Mapping[ActionName, Callable[[Dashboard, Wish], list[str]]] = {
    "train": training_lines,
    "rank": ranking_lines,
    "accept": accepting_lines,
    "take-back": taking_back_lines,
}


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
    wish = wish_for(action, number, form)
    if not board.tokens.fits(wish, who, form.get("token", "")):
        return message(403, "Not done", STALE, "Go back and press the button again.", root="../../")
    try:
        board.actions.do(wish, who)
    except UsamError as error:
        return message(503, "Not done", str(error), root="../../")
    show = {"reason": form["show"][:40]} if form.get("show") else {}
    return RedirectResponse(PAGES[wish.action] + (f"?{urlencode(show)}" if show else ""), 303, headers=HEADERS)
