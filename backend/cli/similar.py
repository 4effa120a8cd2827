"""`usam-backend similar`: find all like this, across the pictures that nobody has labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import (
    AsJson,
    ProjectId,
    check_project,
    open_store,
    print_json,
    print_table,
    say,
    settings_in_use,
)
from backend.cli.projects import picture_name

if TYPE_CHECKING:
    from backend.pool.similar import LikeObjects
    from backend.settings import Settings
    from backend.store import Store

SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("similar")(similar)


def similar(
    project: ProjectId,
    task: Annotated[list[int], typer.Option(help="A task on which what is meant is marked; may be repeated.")],
    label: Annotated[str | None, typer.Option(help="Only what is marked there with this label.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Most objects to find.")] = 50,
    least: Annotated[float, typer.Option(min=-1, max=1, help="Similarity below which nothing is found.")] = 0.2,
    write: Annotated[
        bool, typer.Option("--write", help="Write them into Label Studio, as predictions to confirm.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the objects of unlabelled tasks that look most like what is marked on one or a few others."""
    from backend.pool.similar import find_like

    settings = settings_in_use()
    with open_store(settings, project) as store:
        found = find_like(store, project, task, label=label, most=most, least=least)
        say(f"{len(found.objects)} objects on {len(found.by_task)} tasks are like the {found.examples} marked ones")
        version = _write(settings, project, found) if write and found.objects else ""
        if as_json:
            objects = [vars(one) for one in found.objects]
            print_json({"project": project, "label": found.label, "version": version, "objects": objects})
        else:
            _print(store, project, found)


def _write(settings: Settings, project: int, found: LikeObjects) -> str:
    """Write predictions, in place of those of the last time; returns their version."""
    from backend.label_studio.config import parse_config
    from backend.pool.policy import heads_in_use, version_in_use
    from backend.pool.publication import delete_gently
    from backend.pool.similar import like_predictions
    from backend.resources import Resources

    with Resources.open(settings) as resources:
        check_project(resources.store, project)
        client, ours = resources.label_studio, f"{settings.model}+"
        controls = parse_config(client.project(project).label_config)
        version = f"{ours}{version_in_use(resources, project, heads_in_use(resources, project)[0])}.similar"
        tasks = {task.id: task for task in resources.store.tasks(project, only=list(found.by_task))}
        there = client.model_versions(project)
        before = {name: count for name, count in there.items() if name.startswith(ours) and name.endswith(".similar")}
        delete_gently(client, project, before)
        client.import_predictions(project, like_predictions(found, tasks, controls, settings, version))
    say(f"written as version {version}: open a task in the Data Manager, choose the version above the picture, and in")
    say("its menu (three dots) Duplicate Annotation; then delete what is wrong and submit")
    return version


def _print(store: Store, project: int, found: LikeObjects) -> None:
    names = {task.id: picture_name(task.data) for task in store.tasks(project, only=list(found.by_task))}
    rows = [
        (str(task), names.get(task, ""), str(len(objects)), f"{objects[0].similarity:.2f}")
        for task, objects in list(found.by_task.items())[:SHOWN]
    ]
    print_table(("task", "picture", "objects", "most alike"), rows)
    if len(found.by_task) > SHOWN:
        typer.echo(f"and {len(found.by_task) - SHOWN} more tasks")
