"""What the page shows, gathered from store, registry and the records of accepted masks; writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from backend.errors import RegistryError, StoreError
from backend.settings import Settings
from backend.store.pseudo_label_store import PseudoLabelStore

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.head_registry import Registry

RUNS, ASKED_FIRST, VERSIONS = 6, 5, 8
AUDIT = "audit: chosen at random, to keep the figures honest"
BASE_HEADS = "the heads that come with the checkpoint"


@dataclass(frozen=True)
class RunLine:
    """One run of a job; `seconds` so far or in all, `share` of it done in 0..1, None where that says nothing."""

    job: str
    state: str
    seconds: float
    share: float | None
    said: str


@dataclass(frozen=True)
class AskedLine:
    """One task at the head of the queue, with the reason; `link` opens it in Label Studio."""

    place: int
    task: int
    picture: str
    why: str
    link: str


@dataclass(frozen=True)
class VersionLine:
    """One head set of a project."""

    name: str
    in_use: bool
    made_at: str
    objects: int
    gate: str


@dataclass(frozen=True)
class ProjectView:
    """One project."""

    number: int
    link: str
    served: str
    heads: str
    tasks: int
    unlabelled: int
    annotations: int
    new_labels: int
    runs: tuple[RunLine, ...]
    asked_first: tuple[AskedLine, ...]
    versions: tuple[VersionLine, ...]
    promise: str


@dataclass(frozen=True)
class View:
    """The whole page."""

    checkpoint: str
    engine: str
    projects: tuple[ProjectView, ...]


def gather(settings: Settings, engine: str, store: Store | None, registry: Registry | None) -> View:
    """Everything the page shows. `engine` is the engine's state. Raises `StoreError` without a readable store."""
    numbers = store.projects() if store is not None else []
    projects = tuple(_project(settings, store, registry, number) for number in numbers if store is not None)
    return View(settings.model, engine, projects)


def _project(settings: Settings, store: Store, registry: Registry | None, number: int) -> ProjectView:
    site = settings.label_studio_url
    counts = store.counts(number)
    champion = ""
    try:
        champion = registry.champion(number) if registry is not None else ""
        heads = champion or BASE_HEADS
    except RegistryError as error:  # one project's damage is not the page's
        heads = f"not known: {error}"
    return ProjectView(
        number=number,
        link=f"{site}/projects/{number}/data" if site else "",
        served=store.served(number),
        heads=heads,
        tasks=counts.tasks,
        unlabelled=counts.unlabelled,
        annotations=counts.annotations,
        new_labels=store.new_labels(number),
        runs=_runs(store, number),
        asked_first=_asked_first(store, number, site),
        versions=_versions(registry, number, champion) if registry is not None else (),
        promise=_promise(settings, number),
    )


def _runs(store: Store, number: int) -> tuple[RunLine, ...]:
    return tuple(
        RunLine(
            run.job,
            run.state,
            (run.finished_at or time.time()) - run.started_at,
            run.done / run.total if run.total and run.state == "running" else None,
            run.reason,
        )
        for run in store.runs(number, limit=RUNS)
    )


def _asked_first(store: Store, number: int, site: str) -> tuple[AskedLine, ...]:
    rows = store.ranking(number, ASKED_FIRST)
    known = {task.id: task.data for task in store.tasks(number, only=[row.task for row in rows])}
    return tuple(
        AskedLine(
            row.place + 1,
            row.task,
            _picture(known.get(row.task, {})),
            AUDIT if row.is_audit else row.reason,
            f"{site}/projects/{number}/data?task={row.task}" if site else "",
        )
        for row in rows
    )


def _picture(data: dict[str, object]) -> str:
    """A name by which a person knows the picture; nothing of a `data:` address."""
    value = next((value for value in data.values() if isinstance(value, str)), "")
    if value.startswith("data:"):
        return "(in the task itself)"
    return unquote(value.partition("?d=")[2] or value.partition("?")[0]).rsplit("/", 1)[-1]


def _versions(registry: Registry, number: int, champion: str) -> tuple[VersionLine, ...]:
    return tuple(
        VersionLine(
            version.version,
            version.version == champion,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(version.made_at)),
            version.samples,
            _gate(version.figures),
        )
        for version in reversed(registry.versions(number)[-VERSIONS:])
    )


def _gate(figures: dict[str, object]) -> str:
    before, after = figures.get("champion_error"), figures.get("candidate_error")
    if not isinstance(before, float) or not isinstance(after, float):
        return ""
    return f"error {after:.4f} against {before:.4f} by {figures.get('method', 'the gate')}"


def _promise(settings: Settings, number: int) -> str:
    try:
        record = PseudoLabelStore.of(settings).standing(number)
    except StoreError as error:
        return str(error)
    if record is None:
        return ""
    promise = record.calibration.promise
    state = "in force" if record.state == "written" else "withdrawn"
    return (
        f"{state}: {len(record.masks)} masks on {len(record.tasks)} tasks accepted as {record.version}; at most "
        f"{promise.risk:.0%} below IoU {promise.iou:g}, with confidence {promise.confidence:.0%}"
    )
