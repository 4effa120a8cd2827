"""`usam-backend up`: everything on one machine, on a project of pictures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import say
from backend.cli.projects import RANKED_FIRST, print_ranking, ranked_first, unreadable, unreadable_lines
from backend.errors import SettingsError
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudio
    from backend.local.stack import Stack
    from backend.store import Store

LONGEST_WAIT_S = 3600
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask for an end: Ctrl-C, whoever manages services, and a terminal that is closed."""


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command()(up)


def up(
    images: Annotated[Path | None, typer.Option(help="Folder of images for the demo project.")] = None,
    photos: Annotated[bool, typer.Option("--photos", help="17 photographs of many things instead.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Model that answers, as USAM_MODEL: nano-l has better masks and takes longer.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the backend; a free one where it is taken.")] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, help="How many workers share the cores and the pictures."),
    ] = 1,
    wait: Annotated[bool, typer.Option(help="Stay until Ctrl-C; --no-wait stops after the first ranking.")] = True,
) -> None:
    """Start Redis, Label Studio, the backend and a worker on a demo project: pictures of oranges and lemons."""
    from backend.local.demo import describe_left_out, document_root, pictures_in
    from backend.local.stack import Stack

    if images and photos:
        raise SettingsError("one kind of pictures", "--images and --photos", "leave one of them out")
    settings = Settings.from_environment(port=port, model=model)
    _check_models(settings)
    folder = images.expanduser().resolve() if images else None
    if folder is not None:
        pictures_in(folder)  # says what is wrong before anything starts
        for line in describe_left_out(folder):
            say(line)
    else:
        settings = eager(settings)
    root = Path(__file__).resolve().parents[2]
    with _ended_by_signals():
        try:
            pictures = folder or _demo_folder(settings.data_dir.resolve() / "pictures", photos)
            with Stack(settings, files=document_root(pictures), root=root, workers=workers, say=say) as stack:
                project = _prepare_project(stack, pictures, _title(folder, photos), is_ours=folder is None)
                _print_welcome(stack, project)
                if wait:
                    stack.watch()
        except KeyboardInterrupt:
            say("stopped; annotations, scores and versions stay in " + str(settings.data_dir.resolve()))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the first signal that asks for an end raise `KeyboardInterrupt`; what stops is not interrupted by a second
    one. A signal that is ignored, as `nohup` has it, stays so."""
    heeded = [sign for sign in ENDING if signal.getsignal(sign) is not signal.SIG_IGN]

    def end(_number: int, _frame: FrameType | None) -> None:
        for sign in heeded:
            signal.signal(sign, signal.SIG_IGN)
        say("stopping what was started")
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, end) for sign in heeded}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _check_models(settings: Settings) -> None:
    """Raises `CheckpointError` for a model that is not there, before minutes are spent on starting the rest."""
    from usam.checkpoints.registry import verify

    named = {settings.model, settings.larger_model} - {"", "auto"}
    for name in sorted(named) if not settings.random_weights else ():
        verify(name)


def _prepare_project(stack: Stack, pictures: Path, title: str, *, is_ours: bool = True) -> int:
    """Make or find the demo project, connect it, and wait for its ranking."""
    from backend.label_studio.setup import connect as steps
    from backend.local.demo import demo_project
    from backend.queue import JobName, open_queue
    from backend.store import Store
    from backend.store.earlier import join

    settings = _settings_of(stack)
    with stack.client() as client:
        project, fresh = demo_project(client, pictures, title, is_ours=is_ours)
        say(f"project {project.id}, {project.title!r}: {fresh} new tasks")
        store = Store(settings.store_url)
        try:
            for step in steps(client, settings, project.id, stack.backend_url, store.served(project.id)):
                if step.failed or step.state == "done":
                    say(f"{step.name}: {step.detail}")
            join(store, settings, project)
            queue = open_queue(settings)
            jobs: tuple[JobName, ...] = ("sync", "score_pool")
            for job in jobs:
                queue.wake(project.id, job)  # without Redis, the worker's timer finds the work
            say(f"ranking what is not ranked yet; how far it is: {stack.backend_url}")
            _wait_for_ranking(store, client, project.id)
        finally:
            store.close()
    return project.id


def _wait_for_ranking(store: Store, client: LabelStudio, project: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    since = time.time()
    columns = (TextColumn("ranking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        line = bar.add_task("ranking", total=None)
        while time.time() - since < LONGEST_WAIT_S:
            run = next(iter(store.runs(project, "score_pool", limit=1)), None)
            if run is not None and run.started_at >= since - 1:
                bar.update(line, total=run.total or None, completed=run.done)
                if run.state == "failed":
                    say(f"ranking failed: {run.reason}")
                if run.state not in ("running", "interrupted"):
                    break
            time.sleep(0.5)
        else:
            say("no ranking after an hour; see the worker's log")
    tasks, bad = store.counts(project).tasks, unreadable(store, project)
    say(f"{tasks - len(bad)} of {tasks} pictures looked at" + (f", {len(bad)} could not be used:" if bad else ""))
    for line_ in unreadable_lines(bad):
        say(f"  {line_}")


def _print_welcome(stack: Stack, project: int) -> None:
    from backend.store import Store

    store = Store(_settings_of(stack).store_url)
    try:
        print_ranking(ranked_first(store, project, RANKED_FIRST), project)
    finally:
        store.close()
    typer.echo("")
    typer.echo(f"  Label Studio  {stack.label_studio_url}/projects/{project}/data")
    server = stack.label_studio
    if server is not None and server.is_new:
        typer.echo(f"  log in as     {server.account.username}   password {server.account.password}")
        typer.echo(f"                (shown this once; kept in {server.folder / 'account.json'})")
    elif server is not None:
        typer.echo(f"  log in as     {server.account.username}   password in {server.folder / 'account.json'}")
    typer.echo(f"  web page      {stack.backend_url}   what is labelled, what runs, what is next and why")
    typer.echo(f"  logs, data    {stack.folder}")
    typer.echo("")
    labels = _settings_of(stack).retrain_after
    typer.echo(f"Open the project and press Label All Tasks. After {labels} labels usam learns from them.")
    typer.echo("Ctrl-C stops everything and keeps everything.")


def eager(settings: Settings) -> Settings:
    """The settings of a demo: it learns from few labels, unless the user said from how many."""
    from backend.local.demo import RETRAIN_AFTER

    if "retrain_after" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"retrain_after": RETRAIN_AFTER})


def _demo_folder(parent: Path, photos: bool) -> Path:
    from backend.local.demo import demo_pictures
    from backend.local.scenes import draw_scenes

    return demo_pictures(parent / "demo") if photos else draw_scenes(parent / "oranges-and-lemons")


def _title(images: Path | None, photos: bool = False) -> str:
    from backend.local.demo import PHOTOS_TITLE, TITLE

    if images is None:
        return PHOTOS_TITLE if photos else TITLE
    return f"{PHOTOS_TITLE}: {images.name}"


def _settings_of(stack: Stack) -> Settings:
    """The settings as the started parts have them."""
    os.environ.update(stack.environment)
    return Settings.from_environment()
