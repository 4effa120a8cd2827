"""Commands that look after a project: what was done, what is ranked first, and which heads are in use.

One word, one meaning: a *task* is a picture in Label Studio, an *annotation* what a person saved for it, an *object*
one region of an annotation, a *label* the name that an object carries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.folder import (
    AsJson,
    ProjectId,
    act,
    ask_for,
    check_project,
    console,
    open_store,
    print_json,
    print_table,
    say,
    settings_in_use,
)
from backend.errors import RegistryError, SettingsError, reason_of
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.store import Store
    from backend.store.head_registry import Registry
    from backend.store.head_versions import Version
    from backend.store.pseudo_label_store import PseudoLabelStore

NOT_MENDED = "cannot be repaired"
BASE_HEADS = "the heads that come with the checkpoint"
AUDIT = "audit: chosen at random, to keep the figures honest"
RUNS, RANKED_FIRST = 8, 5


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    for command in (status, score, retrain, versions, rollback, repair):
        app.command()(command)


def status(
    project: Annotated[int | None, typer.Option("--project", help="Only this project.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the workers did and do, the version in use and the tasks that are ranked first."""
    settings = settings_in_use()
    with open_store(settings, project) as store:
        numbers = [project] if project is not None else store.projects()
        states = [project_state(settings, store, number) for number in numbers]
        if as_json:
            print_json({"folder": settings.data_dir.resolve(), "projects": states})
            return
        if not states:
            say("no project is looked after yet: usam-backend connect --project N")
        for state in states:
            _print_state(state)


def score(
    project: ProjectId,
    force: Annotated[bool, typer.Option("--force", help="Rank also where the order in use is right.")] = False,
) -> None:
    """Rank the tasks without an annotation again, in a worker, where their order is out of date."""
    settings = settings_in_use()
    outcome = "ranking asked for, where it is due"
    with open_store(settings, project) as store:
        if force:
            outcome = act(settings, store, "rank", project)
        else:
            ask_for(settings, project, "score_pool")
    say(f"project {project}: {outcome}; see usam-backend status --project {project}")


def retrain(project: ProjectId) -> None:
    """Retrain the heads now, in a worker, however few annotations are new."""
    settings = settings_in_use()
    with open_store(settings, project) as store:
        outcome = act(settings, store, "train", project)
    say(f"project {project}: {outcome}; see usam-backend status --project {project}")


def versions(project: ProjectId, as_json: AsJson = False) -> None:
    """List a project's head sets, the newest last; the one in use is marked."""
    from backend.web.dashboard.versions import judgement_line, judgement_of, learnt_of, scores_stay

    settings = settings_in_use()
    with open_store(settings) as store:
        registry = _registry_of(settings, store, project)
    champion, known, damaged = registry.champion(project), registry.versions(project), registry.damaged(project)
    if as_json:
        listed = [{**_facts(version), "damaged": damaged.get(version.version, "")} for version in known]
        print_json({"project": project, "in_use": champion, "versions": listed, "damaged": damaged})
        return
    typer.echo(f"{' ' if champion else '*'} {BASE_HEADS}")
    for version in known:
        mark = "*" if version.version == champion else " "
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.made_at))
        judged = scores_stay(version.figures) or judgement_line(judgement_of(version.figures))
        judged = judged or _figures(version.figures)
        typer.echo(f"{mark} {version.version}  made {made} from {version.samples} objects; {judged}")
        if version.learnt_sha256:
            typer.echo(f"    learnt of {', '.join(version.classes)}: {learnt_of(version.learnt_figures)}")
        if version.decoder:
            typer.echo(f"    mask decoder {version.decoder} of its own: {_figures(version.decoder_figures)}")
    for name, reason in damaged.items():
        typer.echo(f"! {name}  cannot be used: {reason}")


def rollback(
    project: ProjectId,
    to: Annotated[
        str,
        typer.Option(help="Version to go back to, `base` for the checkpoint's; else the one before."),
    ] = "",
) -> None:
    """Go back to an earlier head set; the pool is ranked again with it."""
    settings = settings_in_use()
    with open_store(settings) as store:
        _registry_of(settings, store, project)
        say(f"project {project}: {act(settings, store, 'rollback', project, to)}")


def repair(
    project: Annotated[int | None, typer.Option("--project", help="Only this project.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mend the data folder from what is intact: damaged head sets are set aside and another is used, a damaged store is
    begun anew and filled again from Label Studio, damaged records of accepted masks are set aside, as is what stands
    where a file or folder belongs."""
    from backend.store.head_registry import Registry
    from backend.store.mending import set_aside_misplaced
    from backend.store.pseudo_label_store import PseudoLabelStore

    settings = settings_in_use(needs_store=False)
    misplaced = set_aside_misplaced(settings.data_dir)
    registry = Registry(settings.registry_dir)
    accepted = PseudoLabelStore.of(settings)
    found, shut = set[int](), list[str]()
    for projects_in in (registry.projects, accepted.projects):
        try:
            found |= set(projects_in())
        except UsamError as error:
            shut.append(f"{NOT_MENDED}: {error}")
    known = sorted(found)
    store_lines = _mend_store(settings, known)
    if project is not None and project not in known:
        with open_store(settings_in_use(tell=lambda line: None), project):
            known = [project]
    chosen = [project] if project is not None else known
    done = {number: _mend_project(registry, accepted, number) for number in chosen}
    copies = registry.keep_copies()
    if as_json:
        told = {"misplaced": misplaced, "shut": shut, "store": store_lines, "repaired": done, "copies": copies}
        print_json({"folder": registry.folder.resolve(), **told})
        _say_whether_mended(shut, done)
        return
    for line in (*misplaced, *shut):
        typer.echo(line)
    for line in store_lines:
        typer.echo(f"store: {line}")
    for number, lines in done.items():
        for line in lines or ["nothing to repair"]:
            typer.echo(f"project {number}: {line}")
    if not done and not store_lines and not misplaced and not shut:
        typer.echo("no project has heads of its own: nothing to repair")
    if copies:
        typer.echo(f"{copies} copies written")
    _say_whether_mended(shut, done)


def _say_whether_mended(shut: Sequence[str], done: Mapping[int, Sequence[str]]) -> None:
    """By the exit code: 1 where something is left for a person."""
    if shut or any(line.startswith(NOT_MENDED) for lines in done.values() for line in lines):
        raise typer.Exit(1)


def _mend_project(registry: Registry, accepted: PseudoLabelStore, number: int) -> list[str]:
    """What was done for one project; what kept it from being mended keeps no other."""
    lines = []
    for repair_part in (registry.repair, accepted.repair):
        try:
            lines += repair_part(number)
        except (UsamError, OSError) as error:
            lines.append(f"{NOT_MENDED}: {reason_of(error)}")
    return lines


def _mend_store(settings: Settings, projects: list[int]) -> list[str]:
    """As `mend_store`, for the SQLite store of a data folder; one that a running stack has open is only looked at."""
    from backend.local.running import running_in
    from backend.store.mending import damage_of, mend_store

    database = settings.data_dir / "usam.db"
    if settings.database_url.get_secret_value() or not (database.exists() or projects):
        return []
    if running_in(settings.data_dir.resolve()) is not None:
        reason = damage_of(database) if database.exists() else "missing"
        if reason:
            raise SettingsError(
                "a stack that is stopped, to mend its store", f"{reason}, while it runs", "stop it first"
            )
        return []
    return mend_store(database, projects)


def project_state(settings: Settings, store: Store, number: int) -> dict[str, Any]:
    """What `status` shows of a project, as JSON values."""
    from backend.learning.work import saving, summarize_work
    from backend.metrics.workers import refinement_lines
    from backend.store.head_registry import Registry

    registry = Registry(settings.registry_dir)
    try:
        heads, warning = registry.champion(number) or BASE_HEADS, ""
    except RegistryError as error:
        heads, warning = "not known", str(error)
    counts = store.counts(number)
    rows = store.work(number)
    work, saved = summarize_work(rows), saving(rows)
    return {
        "project": number,
        "predictions": store.served(number),
        "heads": heads,
        "warning": warning,
        "tasks": counts.tasks,
        "unlabelled": counts.unlabelled,
        "annotations": counts.annotations,
        "runs": [asdict(run) for run in store.runs(number, limit=RUNS)],
        "refinement": refinement_lines(store.refinements(number)),
        "work": [one.facts() for one in work],
        "saving": {**vars(saved), "line": saved.line} if saved is not None else None,
        "ranked_first": ranked_first(store, number, RANKED_FIRST),
        "unreadable": unreadable(store, number),
    }


def ranked_first(store: Store, number: int, count: int) -> list[dict[str, Any]]:
    """The next tasks to be served of those that nobody has finished: rank from 1, task, picture, reason."""
    rows, _ = store.ranked_tasks(number, count=count)
    return [
        {
            "rank": rank,
            "task": row.task,
            "picture": picture_name(row.data),
            "reason": AUDIT if row.is_audit else row.reason,
        }
        for rank, row in enumerate(rows, 1)
    ]


def unreadable(store: Store, number: int) -> list[dict[str, Any]]:
    """Tasks whose picture could not be used the last time, with the reason: task, picture, reason."""
    reasons = store.unreadable(number)
    names = {task.id: picture_name(task.data) for task in store.tasks(number, only=list(reasons)[:500])}
    return [{"task": task, "picture": names[task], "reason": reasons[task]} for task in names]


def picture_name(data: dict[str, Any]) -> str:
    """A name by which a person knows the picture; nothing of a `data:` address."""
    value = next((value for value in data.values() if isinstance(value, str)), "")
    return "(in the task itself)" if value.startswith("data:") else value.rsplit("/", 1)[-1]


def print_ranking(rows: list[dict[str, Any]], number: int) -> None:
    """The tasks ranked first, as a table."""
    cells = [[str(value) for value in row.values()] for row in rows]
    if cells:
        print_table(("", "task", "picture", "reason"), cells, f"ranked first in project {number}")


def unreadable_lines(rows: list[dict[str, Any]], shown: int = 10) -> list[str]:
    """A line for each picture that could not be read, and one for all that are not shown."""
    lines = [f"task {row['task']}, {row['picture']}: {row['reason']}" for row in rows[:shown]]
    return lines + ([f"and {len(rows) - shown} more"] if len(rows) > shown else [])


def _print_state(state: dict[str, Any]) -> None:
    from rich.text import Text

    out = console()
    number, base = state["project"], state["heads"] == BASE_HEADS
    out.print(
        Text.assemble(
            (f"project {number}", "bold"),
            f"  predictions {state['predictions'] or 'none yet'}, {'' if base else 'heads '}{state['heads']} in use, "
            f"{state['unlabelled']} of {state['tasks']} tasks unlabelled, {state['annotations']} annotations",
        )
    )
    if state["warning"]:
        out.print(state["warning"], style="red")
    rows = []
    for run in state["runs"]:
        seconds = (run["finished_at"] or time.time()) - run["started_at"]
        progress = f"{run['done']}/{run['total']}" if run["total"] else ""
        if failed := run["details"].get("failed"):
            progress += f", {failed} not usable"
        rows.append((run["job"], run["state"], progress, f"{seconds:.0f} s", run["reason"]))
    print_table(("job", "state", "progress", "for", "reason"), rows)
    for work in state["work"][-3:]:
        out.print(f"{work['version']}: {work['line']}")
    if state["saving"]:
        out.print(state["saving"]["line"])
    for line in state["refinement"]:
        out.print(line)
    if state["unreadable"]:
        out.print(f"{len(state['unreadable'])} of {state['tasks']} pictures could not be used:")
        for line in unreadable_lines(state["unreadable"]):
            out.print(f"  {line}")
    print_ranking(state["ranked_first"], number)


def _registry_of(settings: Settings, store: Store, project: int) -> Registry:
    """The registry. Raises `SettingsError` for a project that neither it nor the store knows."""
    from backend.store.head_registry import Registry

    registry = Registry(settings.registry_dir)
    if project not in registry.projects():
        check_project(store, project)
    return registry


def _facts(version: Version) -> dict[str, Any]:
    return {name: value for name, value in asdict(version).items() if name != "labels"}


def _figures(gate: dict[str, Any]) -> str:
    plain = {name: value for name, value in gate.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )
