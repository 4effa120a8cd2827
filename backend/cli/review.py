"""`usam-backend review`: labels that are worth a second look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import (
    AsJson,
    ProjectId,
    at_this_machine,
    open_label_studio,
    open_store,
    print_json,
    say,
    settings_in_use,
    write_down,
)
from backend.cli.projects import picture_name
from usam.cli.report import Report, ReportFile, check_report

if TYPE_CHECKING:
    from backend.learning.review import Review
    from backend.settings import Settings

TAB = "Worth a second look"


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("review")(review)


def review(
    project: ProjectId,
    top: Annotated[int, typer.Option("--top", min=1, help="Most labels to list.")] = 50,
    reason: Annotated[
        str, typer.Option("--reason", help="Only what is doubted for this: label, outline, or 'not marked'.")
    ] = "",
    tab: Annotated[bool, typer.Option(help=f"Show their tasks in the Data Manager, as the tab {TAB!r}.")] = True,
    right: Annotated[
        list[str] | None,
        typer.Option("--right", metavar="ANNOTATION/REGION", help="Say that this label of the last list is right."),
    ] = None,
    doubt: Annotated[
        list[str] | None,
        typer.Option("--doubt-again", metavar="ANNOTATION/REGION", help="Take back that a label is right."),
    ] = None,
    report: ReportFile = None,
    as_json: AsJson = False,
) -> None:
    """List labels that a model which has not learnt from them doubts, and objects that nobody marked.

    The largest expected damage comes first. No label is changed; what was looked at and answered again leaves the list
    with the next sync, what is said to be right (`--right`) until its annotation changes.
    """
    from backend.errors import SettingsError
    from backend.learning.review import REASONS, keep_review, review_project
    from backend.learning.right_labels import split
    from usam.heads.bundled import resolve_heads

    if report is not None:
        check_report(report)
    if reason and reason not in REASONS.values():
        raise SettingsError(f"--reason, one of {', '.join(REASONS.values())}", repr(reason))
    settings = settings_in_use()
    if right or doubt:
        _say(settings, project, right or [], doubt or [], reason, as_json)
        return
    base = resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)
    with open_store(settings, project) as store:
        found = review_project(store, project, settings.model, base)
        keep_review(settings, project, found)
        found, said = split(store, project, found)
        names = {task.id: picture_name(task.data) for task in store.tasks(project)}
    chosen = found.first(top, reason)
    if tab:
        _show(settings, project, chosen)
    if report is not None:
        _write(report, settings, project, chosen, names)
    if as_json:
        lines = [{"key": line.key, **asdict(line)} for line in chosen.lines]
        print_json({"project": project, **asdict(chosen), "lines": lines, "said_to_be_right": len(said.lines)})
        return
    _print(chosen, names)
    if said.lines:
        typer.echo(f"{len(said.lines)} more are left out: somebody said that they are right")


def _say(
    settings: Settings, project: int, right: Sequence[str], doubt: Sequence[str], reason: str, as_json: bool
) -> None:
    """Note what is right, and what is not after all, in the last list; it is not made anew."""
    from backend.learning.right_labels import doubt_again, say_right

    told = []
    with open_store(settings, project) as store:
        for key in right:
            for line in say_right(settings, store, project, key, reason, at_this_machine()):
                say(f"task {line.task}, {line.key}: right, though {line.why}")
                told.append({"key": line.key, "reason": line.reason, "right": True})
                write_down(settings, "right", project, f"said to be right, on task {line.task}: {line.why}")
        for key in doubt:
            for line in doubt_again(settings, store, project, key, reason):
                say(f"task {line.task}, {line.key}: doubted again, {line.why}")
                told.append({"key": line.key, "reason": line.reason, "right": False})
                write_down(settings, "doubt-again", project, f"doubted again, on task {line.task}: {line.why}")
    if as_json:
        print_json({"project": project, "said": told})


def _show(settings: Settings, project: int, chosen: Review) -> None:
    from backend.label_studio.tabs import show_in_tab

    with open_label_studio(settings) as client:
        view = show_in_tab(client, project, TAB, [line.task for line in chosen.lines])
    say(f"tab {TAB!r} shows their tasks" if view is not None else f"nothing to show in the tab {TAB!r}")


def _print(chosen: Review, names: dict[int, str]) -> None:
    """Two lines for each: in a table's columns, sentences would be ladders in a terminal of usual width."""
    typer.echo(summary(chosen))
    for line in chosen.lines:
        what = (f"task {line.task}", names.get(line.task, ""), line.key, line.label, f"damage {line.damage:.2f}")
        typer.echo("  ".join(filter(None, what)))
        typer.echo(f"    {line.why}; {line.remedy}")


def summary(review: Review) -> str:
    """What was looked at, in one line."""
    from usam.objects.review import LEAST_IMAGES, LEAST_LABELS

    if review.labels < LEAST_LABELS or review.tasks < LEAST_IMAGES:
        return (
            f"{review.labels} labels of {review.tasks} tasks are known: from {LEAST_LABELS} on {LEAST_IMAGES} tasks on "
            "it can be told which are unusual"
        )
    return f"{len(review.lines)} to look at, of {review.labels} labels of {review.tasks} finished tasks"


def _write(path: Path, settings: Settings, project: int, chosen: Review, names: dict[int, str]) -> None:
    from backend.web.dashboard.overview import link_to

    page = Report(f"Labels worth a second look, project {project}")
    page.text(summary(chosen))
    rows = [
        [line.task, names.get(line.task, ""), line.label, line.why, line.remedy, f"{line.damage:.2f}"]
        for line in chosen.lines
    ]
    links = [link_to(settings, project, line.task) for line in chosen.lines]
    page.table(["task", "picture", "label", "why", "what to do", "damage"], rows, links=links)
    page.write(path)
    say(f"report in {path}")
