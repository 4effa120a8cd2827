"""The page of labels worth a second look: what `usam-backend review` found last, a picture and a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response

from backend.errors import StoreError
from backend.learning.review import REASONS, Review, kept_review
from backend.learning.right_labels import split
from backend.web.dashboard.actions import ActionName, Wish
from backend.web.dashboard.forms import asker
from backend.web.dashboard.overview import link_to
from backend.web.dashboard.queue import Choice, picture_name, query_of
from backend.web.dashboard.rendering import FORM_HEADERS
from backend.web.dashboard.routes import project_page

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.store import Store
    from backend.web.dashboard.board import Dashboard

SHOWN = 60
RIGHT = "right"
"""The filter for labels that people said are right."""


@dataclass(frozen=True)
class DoubtTile:
    """One doubtful label. `box` x, y, width, height in percent of the picture; `damage` 0..1; `thumbnail` an address
    below the project's; `link` opens the task in Label Studio."""

    task: int
    picture: str
    why: str
    remedy: str
    damage: float
    box: tuple[float, float, float, float]
    is_missing: bool
    thumbnail: str
    link: str
    key: str = ""
    reason: str = ""
    """Together what a form calls it."""


@dataclass(frozen=True)
class ReviewPage:
    """The first doubtful labels; `total` of all that the filter lets through, `review` None before the first look.
    `show` is the filter, `is_right` that of labels that people said are right."""

    tiles: tuple[DoubtTile, ...]
    choices: tuple[Choice, ...]
    total: int
    review: Review | None
    show: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it shows what was said to be right."""
        return self.show == RIGHT


def review_page(settings: Settings, store: Store, project: int, asked: Mapping[str, str]) -> ReviewPage:
    """What `asked` wants: `reason`, one of `REASONS`, or `RIGHT` for what was said to be right, else all that is
    doubted. Raises `StoreError` where the list cannot be read."""
    review = kept_review(settings, store, project)
    if review is None:
        return ReviewPage((), (), 0, None)
    doubted, said = split(store, project, review)
    reason = asked.get("reason", "")
    reason = reason if reason in (*REASONS.values(), RIGHT) else ""
    chosen = said if reason == RIGHT else doubted.first(len(doubted.lines), reason)
    counts = {name: sum(line.reason == name for line in doubted.lines) for name in REASONS.values()}
    choices = [Choice("All", len(doubted.lines), "?", not reason)]
    choices += [Choice(name.capitalize(), counts[name], query_of(reason=name), name == reason) for name in counts]
    if said.lines or reason == RIGHT:
        choices.append(Choice("Said to be right", len(said.lines), query_of(reason=RIGHT), reason == RIGHT))
    shown = chosen.lines[:SHOWN]
    names = {task.id: picture_name(task.data) for task in store.tasks(project, only=[line.task for line in shown])}
    tiles = []
    for line in shown:
        left, top, right, bottom = (100 * side for side in line.box)
        tiles.append(
            DoubtTile(
                task=line.task,
                picture=names.get(line.task, ""),
                why=line.why,
                remedy=line.remedy,
                damage=line.damage,
                box=(round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)),
                is_missing=not line.region,
                thumbnail=f"tasks/{line.task}/thumbnail",
                link=link_to(settings, project, line.task),
                key=line.key,
                reason=line.reason,
            )
        )
    return ReviewPage(tuple(tiles), tuple(choices), len(chosen.lines), review, reason)


def add_review_page(app: FastAPI, board: Dashboard) -> None:
    """Add the page to the application."""

    def values(project: int, asked: Mapping[str, str], who: str) -> dict[str, object]:
        if board.store is None:
            raise StoreError("a store", "none", "start the service with one")
        page = review_page(board.settings, board.store, project, asked)
        action: ActionName = "doubt-again" if page.is_right else "right"

        def token_of(tile: DoubtTile) -> str:
            return board.tokens.of(Wish(action, project, label=tile.key, reason=tile.reason), who)

        return {"page": page, "action": action, "token_of": token_of}

    @app.get("/projects/{project}/review", include_in_schema=False)
    async def review(request: Request, project: str) -> Response:
        """Labels worth a second look."""
        asked, who = request.query_params, asker(request)
        return await project_page(
            board, request, project, "review", lambda number: values(number, asked, who), FORM_HEADERS
        )
