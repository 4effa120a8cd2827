"""The routes of the pages. What they show is gathered in threads, so that nobody else waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sql
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from backend.label_studio.records import MAX_ID
from backend.web.dashboard.board import Dashboard
from backend.web.dashboard.calibration import across, down
from backend.web.dashboard.overview import link_to
from backend.web.dashboard.rendering import (
    HEADERS,
    Place,
    assets,
    render_beat,
    render_live,
    render_page,
    render_still,
)
from backend.web.dashboard.surroundings import Notice
from backend.web.dashboard.thumbnails import Picture, View, sentence_picture
from usam.errors import UsamError

KEPT_FOREVER, KEPT_A_DAY = "private, max-age=31536000, immutable", "private, max-age=86400, immutable"
"""Of files whose address changes with their content."""
LARGE_VIEWS: tuple[View, ...] = ("proposals", "readings", "doubt")
_log = logging.getLogger(__name__)


def add_pages(app: FastAPI, board: Dashboard, state: Callable[[], Response]) -> None:
    """Add all pages to the application. `state` answers a program that asks for `/`."""

    @app.get("/", include_in_schema=False)
    async def overview(request: Request) -> Response:
        """The overview for a browser, else the same as `/health`."""
        if "text/html" not in request.headers.get("accept", "") and "hx-request" not in request.headers:
            return state()

        def answer() -> Response:
            found = board.overview()
            values = {
                "cards": found.cards,
                "troubles": found.troubles,
                "summary": found.summary,
                "checkpoint": board.engine.checkpoint,
                "engine": board.engine.state,
            }
            return live_answer(request, Place("Projects"), "overview.html", values)

        return await guarded(board, request, answer)

    @app.get("/projects/{project}/queue", include_in_schema=False)
    async def queue(request: Request, project: str) -> Response:
        """The next tasks of a project."""
        return await project_page(
            board, request, project, "queue", lambda number: {"page": board.queue_page(number, request.query_params)}
        )

    @app.get("/projects/{project}/learning", include_in_schema=False)
    async def learning(request: Request, project: str) -> Response:
        """What labels have brought, and what more would."""
        return await project_page(
            board, request, project, "learning", lambda number: {"page": board.learning_page(number)}
        )

    @app.get("/projects/{project}/trust", include_in_schema=False)
    async def trust(request: Request, project: str) -> Response:
        """Whether predictions are true, and what accepted masks rest on."""
        more = {"across": across, "down": down}
        return await project_page(
            board,
            request,
            project,
            "trust",
            lambda number: {"page": board.trust_page(number, request.query_params), **more},
        )

    @app.get("/projects/{project}/tasks/{task}/thumbnail", include_in_schema=False)
    async def thumbnail(project: str, task: str) -> Response:
        """A small picture of a task, its masks drawn in."""
        return await picture_answer(board, project, task, "small")

    @app.get("/projects/{project}/tasks/{task}/pictures/{view}", include_in_schema=False)
    async def large(project: str, task: str, view: str) -> Response:
        """A large picture of a task."""
        if view not in LARGE_VIEWS:
            return message(404, "Not found", "There is no such picture of a task.", root="../../../../../")
        return await picture_answer(board, project, task, next(one for one in LARGE_VIEWS if one == view))

    @app.get("/projects/{project}/tasks/{task}", include_in_schema=False)
    async def closer(request: Request, project: str, task: str) -> Response:
        """One task, looked at closely."""

        def answer() -> Response:
            place = place_of(board, project, "queue")
            if place is None or place.project is None:
                return unknown_project(request, project, "../../../")
            page = board.task_page(place.project, number_of(task), request.query_params)
            if page is None:
                text = f"Task {task[:20]} is not known any more: it was deleted in Label Studio, or never imported."
                return said(request, 404, "No such task", text, root="../../../")
            notices = board.notices(place.project)
            place = replace(place, title=f"Task {page.task}: {place.project_title}", root="../../../")
            return live_answer(request, place, "closer.html", {"page": page}, notices=notices)

        return await guarded(board, request, answer, "../../../")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        """A file that pages load."""
        asset = next((asset for asset in assets().values() if asset.name == name), None)
        if asset is None:
            return message(404, "Not found", "This file is not part of the pages.", root="../")
        return Response(asset.content, headers={"Cache-Control": KEPT_FOREVER}, media_type=asset.media_type)


async def project_page(
    board: Dashboard,
    request: Request,
    project: str,
    tab: str,
    values_of: Callable[[int], Mapping[str, object]],
    headers: Mapping[str, str] = HEADERS,
) -> Response:
    """The page `tab` of a project, of what `values_of` gathers for its id in a thread. `headers`: `FORM_HEADERS` where
    it has forms that are posted."""

    def answer() -> Response:
        place = place_of(board, project, tab)
        if place is None or place.project is None:
            return unknown_project(request, project)
        values = {"project": place.project, **values_of(place.project)}
        return live_answer(request, place, f"{tab}.html", values, headers, board.notices(place.project))

    return await guarded(board, request, answer, "../../")


async def picture_answer(board: Dashboard, project: str, task: str, view: View) -> Response:
    """A picture of a task; of a sentence where it cannot be had."""
    picture = await board.picture(number_of(project), number_of(task), view)
    if picture is None:
        picture = Picture(sentence_picture("This task is not known any more."), "image/svg+xml", failed=True)
    kept = "no-store" if picture.failed else KEPT_A_DAY
    return Response(picture.content, headers={"Cache-Control": kept}, media_type=picture.media_type)


async def guarded(board: Dashboard, request: Request, answer: Callable[[], Response], root: str = "") -> Response:
    """The answer; a page that says what is wrong where it cannot be given."""
    try:
        return await board.run(answer)
    except UsamError as error:
        return said(request, 503, "This page cannot be shown now", str(error), root=root)
    except sql.exc.SQLAlchemyError as error:
        _log.warning("a page could not be shown: %s", type(error).__name__)
        text = f"The store does not answer ({type(error).__name__})."
        return said(request, 503, "This page cannot be shown now", text, "Check the database.", root=root)


def number_of(text: str) -> int:
    """The id that an address names, 0 where it is none.

    >>> number_of("12"), number_of("x"), number_of("9" * 30)
    (12, 0, 0)
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return number if number <= MAX_ID else 0


def place_of(board: Dashboard, project: str, tab: str) -> Place | None:
    """Where a project's page is; None for a project that is not looked after."""
    number = number_of(project)
    if not number or number not in board.known_projects():
        return None
    title = board.title(number)
    return Place(f"{tab.title()}: {title}", "../../", number, title, tab, link_to(board.settings, number))


def live_answer(
    request: Request,
    place: Place,
    template: str,
    values: Mapping[str, object],
    headers: Mapping[str, str] = HEADERS,
    notices: Sequence[Notice] = (),
) -> Response:
    """A whole page, `notices` first, or, to a page that asks for its live part, that part where it is another than it
    has."""
    query = {name: value for name, value in request.query_params.items() if name not in ("part", "seen")}
    content, digest = render_live(template, query, notices, **values)
    if request.query_params.get("part") != "live":
        return HTMLResponse(render_page(place, content), headers=headers)
    if request.query_params.get("seen") == digest:
        return HTMLResponse(render_beat(), headers={**HEADERS, "HX-Reswap": "none"})
    return HTMLResponse(content + render_beat(), headers=HEADERS)


def message(status: int, heading: str, text: str, remedy: str = "", *, root: str = "") -> Response:
    """A page that says one thing."""
    content = f'<div id="live" tabindex="-1">\n{words_of(heading, text, remedy)}</div>'
    return HTMLResponse(render_page(Place(heading, root), content), status, headers=HEADERS)


def words_of(heading: str, text: str, remedy: str) -> str:
    """One thing, escaped."""
    return render_still("message.html", heading=heading, text=text, remedy=remedy)


def said(request: Request, status: int, heading: str, text: str, remedy: str = "", *, root: str = "") -> Response:
    """The same as `message`; to a page that is open and asks for its live part, that part, which asks on."""
    if request.query_params.get("part") != "live":
        return message(status, heading, text, remedy, root=root)
    query = {name: value for name, value in request.query_params.items() if name not in ("part", "seen")}
    content, _ = render_live("message.html", query, heading=heading, text=text, remedy=remedy)
    return HTMLResponse(content + render_beat(), headers=HEADERS)


def unknown_project(request: Request, project: str, root: str = "../../") -> Response:
    """The page of a project that is not looked after, or no more."""
    return said(
        request,
        404,
        "No such project",
        f"Project {project[:20]} is not looked after here. It may have been deleted in Label Studio.",
        "The list of projects has those that are. To add one: `usam-backend connect --project N`",
        root=root,
    )
