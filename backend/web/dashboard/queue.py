"""The queue's page: the next tasks of a project in the order in which they are served, with the reason for each."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode

from backend.settings import Settings
from backend.store.overview import UNUSABLE, RankedTask, ReasonKind
from backend.web.dashboard.overview import counted, link_to

if TYPE_CHECKING:
    from backend.store import Store

PER_PAGE = 24
KINDS_SHOWN, LABELS_SHOWN = 8, 30
KINDS_KEPT_S = 15.0
MOST_GAP = 0.5
"""The largest gap there can be."""
MEANINGS = {
    "expected error": "how much the masks shown are expected to miss by, 0 to 1 (1 less the mean predicted IoU)",
    "not shown": "the share of what is expected to be wanted that is not shown, since the model is not sure of it",
    "label doubt": "how unsure the labels are, 0 to 1",
    "not covered": "the share of the picture that no mask covers; high where objects are few or none was found",
    "task gap": "what saying which object is meant would bring, in IoU",
    "prompt gap": "what more clicks would bring, in IoU",
    "model gap": "what a bigger model would bring, in IoU",
}
"""What the bars of a task's doubts say; a gap's bar is full at 0.5, any other at 1."""
FILTERS = ("show", "reason", "label")
"""What an address of the queue may ask for, beside its page."""
AUDIT = "audit: chosen at random, to keep the figures honest"
NAME_LENGTH = 80
_FIGURE = re.compile(r"([A-Za-z][A-Za-z+_ -]*?) (-?\d+\.\d+)")


@dataclass(frozen=True)
class Doubt:
    """One figure of a task's reason, as a bar: `share` of the largest value, 0..1."""

    name: str
    value: float
    share: float


@dataclass(frozen=True)
class TaskTile:
    """One task of the queue. `rank` is 1 for the task that is served next, 0 where a filter leaves others out;
    `thumbnail` and `closer`, where it is looked at closely, are addresses below the project's; `link` opens the task in
    Label Studio."""

    task: int
    rank: int
    picture: str
    reason: str
    is_audit: bool
    is_unusable: bool
    doubts: tuple[Doubt, ...]
    thumbnail: str
    link: str
    closer: str


@dataclass(frozen=True)
class Choice:
    """One filter: its words, how many tasks it shows where that is known, its address, and whether it is chosen."""

    text: str
    count: int | None
    query: str
    chosen: bool
    is_label: bool = False


@dataclass(frozen=True)
class QueuePage:
    """One page of a queue."""

    tiles: tuple[TaskTile, ...]
    choices: tuple[Choice, ...]
    total: int
    first: int
    earlier: str
    later: str
    ranked: bool
    progress: str = ""
    """How far the first ranking is, empty where none runs."""

    @property
    def meanings(self) -> dict[str, str]:
        """What the bars on this page say."""
        shown = {doubt.name for tile in self.tiles for doubt in tile.doubts}
        return {name: text for name, text in MEANINGS.items() if name in shown}


@dataclass(frozen=True)
class Filters:
    """What a project's queue can be filtered by: kinds of reasons, and labels that are shown, with how many tasks."""

    kinds: Sequence[ReasonKind]
    labels: Mapping[str, int]


class ReasonKinds:
    """The filters of each project, read from the store now and then. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._kept: dict[int, tuple[float, str, Filters]] = {}

    def of(self, project: int) -> Filters:
        """The most frequent kinds of a project's reasons, and labels."""
        version, now = self._store.served(project), time.monotonic()
        with self._lock:
            at, of_version, filters = self._kept.get(project, (float("-inf"), "", Filters((), {})))
            if now - at > KINDS_KEPT_S or of_version != version:
                labels = dict(list(self._store.shown_labels(project).items())[:LABELS_SHOWN])
                filters = Filters(self._store.reason_kinds(project)[:KINDS_SHOWN], labels)
                self._kept[project] = now, version, filters
        return filters


def queue_page(settings: Settings, store: Store, filters: Filters, project: int, asked: Mapping[str, str]) -> QueuePage:
    """The tasks that `asked` wants: `show` (`audits`, `unusable`, else all), `reason` (a kind's name), `label`
    and `page`."""
    show, reason, label = asked.get("show", ""), asked.get("reason", ""), asked.get("label", "")
    label = label if label in filters.labels else ""
    kind = next((one for one in filters.kinds if one.name == reason), None)
    number = asked.get("page", "1")
    page = int(number) if number.isascii() and number.isdigit() and 0 < len(number) < 7 else 1
    page = max(page, 1)
    rows, total = store.ranked_tasks(
        project,
        audit=True if show == "audits" else None,
        unusable=show == "unusable",
        label=label,
        patterns=kind.patterns if kind is not None else (),
        start=(page - 1) * PER_PAGE,
        count=PER_PAGE,
    )
    chosen = {
        "show": show if show in ("audits", "unusable") else "",
        "reason": kind.name if kind else "",
        "label": label,
    }
    query = query_of(**chosen, page=str(page))
    return QueuePage(
        tiles=tuple(
            tile_of(settings, project, row, 0 if any(chosen.values()) else (page - 1) * PER_PAGE + number, query)
            for number, row in enumerate(rows, 1)
        ),
        choices=tuple(choices(filters, chosen)),
        total=total,
        first=(page - 1) * PER_PAGE + 1,
        earlier=query_of(**chosen, page=str(page - 1)) if page > 1 else "",
        later=query_of(**chosen, page=str(page + 1)) if page * PER_PAGE < total else "",
        ranked=(ranked := bool(total) or bool(store.served(project))),
        progress="" if ranked else progress_of(store, project),
    )


def progress_of(store: Store, project: int) -> str:
    """How far the ranking that runs is, empty where none does."""
    run = next(iter(store.runs(project, "score_pool", limit=1)), None)
    if run is None or run.state != "running":
        return ""
    return f"{run.done:,} of {counted(run.total, 'picture')} looked at" if run.total else "it has just begun"


def choices(filters: Filters, chosen: Mapping[str, str]) -> list[Choice]:
    """The filters, those without effect left out. A label goes together with audits and with reasons."""
    show, reason, label = chosen["show"], chosen["reason"], chosen["label"]
    kinds = filters.kinds
    found = [
        Choice("All", None, "?", not show and not reason and not label),
        Choice("Audits", None, query_of(show="audits", label=label), show == "audits"),
        Choice("Cannot be used", None, query_of(show="unusable"), show == "unusable"),
    ]
    if len(kinds) > 1 or reason:
        for kind in kinds:
            found.append(Choice(kind.name, kind.count, query_of(reason=kind.name, label=label), kind.name == reason))
    if len(filters.labels) > 1 or label:
        for name, count in filters.labels.items():
            query = query_of(show=show if show == "audits" else "", reason=reason, label="" if name == label else name)
            found.append(Choice(name, count, query, name == label, is_label=True))
    return found


def query_of(**values: str) -> str:
    """The address of a page of the queue."""
    return "?" + urlencode({name: value for name, value in values.items() if value and (name, value) != ("page", "1")})


def tile_of(settings: Settings, project: int, row: RankedTask, rank: int, query: str = "") -> TaskTile:
    """One task as it is shown. `query` is what the page of the queue was asked with."""
    unusable = row.acquisition <= UNUSABLE
    doubts = () if unusable else doubts_of(row.reason)
    of = f"{row.version}-{row.data_key[:8]}-{row.proposals[:8]}"
    return TaskTile(
        task=row.task,
        rank=rank,
        picture=picture_name(row.data),
        reason=AUDIT if row.is_audit and not unusable else reason_line(row.reason, doubts),
        is_audit=row.is_audit,
        is_unusable=unusable,
        doubts=doubts,
        thumbnail=f"tasks/{row.task}/thumbnail?" + urlencode({"of": of}),
        link=link_to(settings, project, row.task),
        closer=f"tasks/{row.task}" + (query if query != "?" else ""),
    )


def doubts_of(reason: str) -> tuple[Doubt, ...]:
    """The figures that a reason names, those with a known range only.

    >>> [(doubt.name, doubt.share) for doubt in doubts_of("task gap 0.25 and model gap -0.10 on its 3 most doubtful")]
    [('task gap', 0.5), ('model gap', 0.0)]
    """
    found = []
    for name, number in _FIGURE.findall(reason):
        name, value = name.removeprefix("and ").strip(), float(number)
        most = MOST_GAP if name.endswith("gap") else 1.0
        if value <= most:
            found.append(Doubt(name, value, min(max(value / most, 0.0), 1.0)))
    return tuple(found[:6])


def reason_line(reason: str, doubts: Sequence[Doubt]) -> str:
    """The reason without the figures that stand beside it as bars.

    >>> reason_line("task gap 0.25 on its 3 most doubtful of 9 objects", doubts_of("task gap 0.25"))
    'ranked by its 3 most doubtful of 9 objects'
    >>> reason_line("masks doubtful: expected error 0.31 on its 4 objects shown", doubts_of("expected error 0.31"))
    'masks doubtful, 4 objects shown'
    """
    figures, found, objects = reason.partition(" on its ")
    if not found or len(_FIGURE.findall(figures)) != len(doubts):
        return reason
    lead, colon, _ = figures.partition(": ")
    return f"{lead}, {objects}" if colon else f"ranked by its {objects}"


def picture_name(data: Mapping[str, object]) -> str:
    """A name by which a person knows the picture, empty for one that is in the task itself."""
    value = next((value for value in data.values() if isinstance(value, str)), "")
    if value.startswith("data:"):
        return ""
    name = unquote(value.partition("?d=")[2] or value.partition("?")[0]).rsplit("/", 1)[-1]
    return name[:NAME_LENGTH]
