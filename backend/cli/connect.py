"""`usam-backend connect` and `disconnect`: a project of an existing Label Studio, and this service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import ProjectId, ask_for, data_folder, has_store, open_label_studio, settings_in_use
from backend.errors import SettingsError
from backend.label_studio.records import MAX_ID

if TYPE_CHECKING:
    from backend.label_studio.setup import Step
    from backend.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("connect")(connect)
    app.command("disconnect")(disconnect)


def connect(
    project: ProjectId,
    url: Annotated[str, typer.Option(help="Address of the backend as Label Studio reaches it.")] = "",
) -> None:
    """Do for an existing project what a person would forget: all of it, or nothing and why."""
    from backend.label_studio import setup
    from backend.label_studio.video_config import takes_masks
    from backend.store import Store
    from backend.store.earlier import join

    if not 0 < project <= MAX_ID:
        raise SettingsError("the number of a project, from 1", str(project)[:40], "see its address in Label Studio")
    settings = settings_in_use(needs_store=False)
    address = url or f"http://{settings.host}:{settings.port}"
    data_folder(settings)
    store = Store(settings.store_url)
    try:
        with open_label_studio(settings) as client:
            steps = print_steps(setup.connect(client, settings, project, address, store.served(project)))
            if any(step.failed for step in steps):
                typer.echo(f"project {project} is not connected", err=True)
                raise typer.Exit(1)
            known = client.project(project)
            join(store, settings, known)
    finally:
        store.close()
    ask_for(settings, project, "sync")
    if takes_masks(known.label_config):
        ask_for(settings, project, "score_pool")


def disconnect(
    project: ProjectId,
    url: Annotated[str, typer.Option(help="Address of the backend to take out; all of ours without it.")] = "",
) -> None:
    """Take the backend, its webhook and its tab out of a project, which is not looked after any more. Labels and
    predictions stay there, and here."""
    from backend.label_studio import setup

    settings = settings_in_use(needs_store=False)
    with open_label_studio(settings) as client:
        if not url:  # first, so that nothing is written there any more, whatever Label Studio answers
            _leave(settings, project)
        print_steps(setup.disconnect(client, project, url))
        if url and not setup.has_backend_of_ours(client, project):
            _leave(settings, project)


def _leave(settings: Settings, project: int) -> None:
    """Note in the store, where there is one, that a project is not looked after any more."""
    from backend.store import Store

    if not has_store(settings):
        return
    store = Store(settings.store_url)
    try:
        if project in store.projects():
            store.leave(project)
            typer.echo(f"{'done':>10}  store: project {project} is not looked after any more; what was learnt is kept")
    finally:
        store.close()


def print_steps(steps: Iterable[Step]) -> list[Step]:
    """Print each step as it is done; returns them all."""
    done = []
    for step in steps:
        typer.echo(f"{step.state:>10}  {step.name}: {step.detail}")
        done.append(step)
    return done
