"""`usam-backend ...`: start everything, or one part, and look after projects.

Nothing here imports torch or starts a connection before a command runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli import plan, pseudo_label
from backend.errors import SettingsError
from backend.settings import Settings
from usam.cli.main import ErrorGroup

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudio
    from backend.local.stack import Stack
    from backend.queue import JobName
    from backend.store import Store

app = typer.Typer(
    name="usam-backend",
    cls=ErrorGroup,
    help="Label Studio with a SAM 2 that says why it is unsure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
BASE_HEADS = "the heads that come with the checkpoint"
ProjectId = Annotated[int, typer.Option("--project", help="Number of the Label Studio project.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False) -> None:
    """Label Studio with a SAM 2 that says why it is unsure."""


@app.command()
def up(
    images: Annotated[Path | None, typer.Option(help="Folder of images for the demo project.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the backend; a free one where it is taken.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until Ctrl-C; --no-wait stops after the first ranking.")] = True,
) -> None:
    """Start Redis, Label Studio, the backend and a worker on a demo project of real images."""
    from backend.local.demo import demo_pictures, document_root
    from backend.local.stack import Stack

    settings = Settings.from_environment(port=port)
    pictures = images.resolve() if images else demo_pictures(settings.data_dir.resolve() / "pictures" / "demo")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    root = Path(__file__).resolve().parents[2]
    try:
        with Stack(settings, files=document_root(pictures), root=root, say=_say) as stack:
            project = _prepare_project(stack, settings, pictures, title=_title(images))
            _print_welcome(stack, settings, project)
            if wait:
                stack.watch()
    except KeyboardInterrupt:
        _say("stopped; labels, scores and versions stay in " + str(settings.data_dir.resolve()))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the backend that Label Studio talks to."""
    import uvicorn

    from backend.web.service import service_app

    settings = Settings.from_environment(host=host, port=port)
    for name, value in settings.summary().items():
        typer.echo(f"{name}={value}", err=True)
    uvicorn.run(service_app(settings), host=settings.host, port=settings.port, log_level="warning", access_log=False)


@app.command()
def worker() -> None:
    """Run a worker: it syncs, retrains and ranks. Several may run, here or on other hosts."""
    from backend.jobs.worker import work

    work(Settings.from_environment())


@app.command()
def connect(
    project: ProjectId,
    url: Annotated[str, typer.Option(help="Address of the backend as Label Studio reaches it.")] = "",
) -> None:
    """Do for an existing project what a person would forget, and say what could not be done."""
    from backend.label_studio.setup import connect as steps

    settings = Settings.from_environment()
    address = url or f"http://{settings.host}:{settings.port}"
    with _client(settings) as client:
        failed = [step for step in _print_steps(steps(client, settings, project, address)) if step.failed]
        _store(settings).join(project, client.project(project).stamp)
    _wake(settings, project, "sync")
    _wake(settings, project, "score_pool")
    if failed:
        raise typer.Exit(1)


@app.command()
def status(project: Annotated[int | None, typer.Option("--project", help="Only this project.")] = None) -> None:
    """Show what the workers did and do, the version in use and the head of the queue."""
    from rich.console import Console
    from rich.table import Table

    from backend.metrics.workers import refinement_lines
    from backend.store.head_registry import Registry

    settings = Settings.from_environment()
    store, registry = _store(settings), Registry(settings.registry_dir)
    console = Console()
    for number in [project] if project is not None else store.projects():
        console.print(
            f"[bold]project {number}[/bold]  predictions {store.served(number) or 'none yet'}, "
            f"heads {registry.champion(number) or BASE_HEADS}, "
            f"{len(store.tasks(number))} tasks, {len(store.annotations(number))} annotations"
        )
        table = Table("job", "state", "progress", "for", "reason")
        for run in store.runs(number, limit=8):
            seconds = (run.finished_at or time.time()) - run.started_at
            progress = f"{run.done}/{run.total}" if run.total else ""
            table.add_row(run.job, run.state, progress, f"{seconds:.0f} s", run.reason)
        console.print(table)
        for line in refinement_lines(store.refinements(number)):
            console.print(line, highlight=False)
        _print_ranking(store, number, 5)


@app.command()
def score(project: ProjectId) -> None:
    """Rank the unlabelled tasks again (in a worker)."""
    settings = Settings.from_environment()
    _wake(settings, project, "score_pool")
    _say(f"project {project}: ranking asked for; see usam-backend status")


@app.command()
def retrain(project: ProjectId) -> None:
    """Retrain the heads now, however few labels are new (in a worker)."""
    settings = Settings.from_environment()
    _wake(settings, project, "retrain")
    _say(f"project {project}: retraining asked for; see usam-backend status")


@app.command()
def versions(project: ProjectId) -> None:
    """List a project's head sets, the newest last; the one in use is marked."""
    from backend.store.head_registry import Registry

    registry = Registry(Settings.from_environment().registry_dir)
    champion = registry.champion(project)
    typer.echo(f"{' ' if champion else '*'} {BASE_HEADS}")
    for version in registry.versions(project):
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.made_at))
        mark = "*" if version.version == champion else " "
        typer.echo(f"{mark} {version.version}  made {made} from {version.samples} objects; {_figures(version.figures)}")


@app.command()
def rollback(
    project: ProjectId,
    to: Annotated[str, typer.Option(help="Version to go back to; the one before where none is given.")] = "",
) -> None:
    """Go back to an earlier head set; the pool is ranked again with it."""
    from backend.store.head_registry import Registry

    settings = Settings.from_environment()
    now = Registry(settings.registry_dir).rollback(project, to or None, "asked for on the command line")
    _wake(settings, project, "score_pool")
    _say(f"project {project}: now {now.version if now else BASE_HEADS}; the pool is being ranked with it")


def _prepare_project(stack: Stack, settings: Settings, pictures: Path, title: str) -> int:
    """Make or find the demo project, connect it, and wait for its ranking."""
    from backend.label_studio.setup import connect as steps
    from backend.local.demo import demo_project

    inner = _settings_of(stack)
    with stack.client() as client:
        project, fresh = demo_project(client, pictures, title)
        _say(f"project {project.id}, {title!r}: {fresh} new tasks")
        for step in steps(client, inner, project.id, stack.backend_url):
            if step.failed or step.state == "done":
                _say(f"{step.name}: {step.detail}")
        store = _store(inner)
        store.join(project.id, project.stamp)
        _wake(inner, project.id, "sync")
        _wake(inner, project.id, "score_pool")
        _wait_for_ranking(store, client, project.id)
    return project.id


def _wait_for_ranking(store: Store, client: LabelStudio, project: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    since = time.time()
    columns = (TextColumn("ranking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        line = bar.add_task("ranking", total=None)
        while True:
            run = next(iter(store.runs(project, "score_pool", limit=1)), None)
            if run is not None and run.started_at >= since - 1:
                bar.update(line, total=run.total or None, completed=run.done)
                if run.state == "failed":
                    _say(f"ranking failed: {run.reason}")
                    return
                if run.state not in ("running", "interrupted"):
                    return
            if time.time() - since > 3600:
                _say("no ranking after an hour; see the worker's log")
                return
            time.sleep(0.5)


def _print_welcome(stack: Stack, settings: Settings, project: int) -> None:
    store = _store(_settings_of(stack))
    _print_ranking(store, project, 5)
    typer.echo("")
    typer.echo(f"  Label Studio  {stack.label_studio_url}/projects/{project}/data")
    if stack.label_studio is not None:
        account = stack.label_studio.account
        typer.echo(f"  log in as     {account.username}   password {account.password}")
    typer.echo(f"  backend       {stack.backend_url}   API /docs   metrics /metrics")
    typer.echo(f"  logs, data    {stack.folder}")
    typer.echo("")
    typer.echo("Open the project and press Label All Tasks. Ctrl-C stops everything and keeps everything.")


def _print_ranking(store: Store, project: int, count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = store.ranking(project, count)
    if not rows:
        return
    known = {task.id: task for task in store.tasks(project)}
    table = Table("", "task", "picture", "why", title=f"asked first in project {project}", title_justify="left")
    for row in rows:
        data = known[row.task].data if row.task in known else {}
        picture = next((str(value).rsplit("/", 1)[-1] for value in data.values() if isinstance(value, str)), "")
        why = "audit: chosen at random, to keep the figures honest" if row.is_audit else row.reason
        table.add_row(str(row.place + 1), str(row.task), picture, why)
    Console().print(table)


def _print_steps(steps: Any) -> list[Any]:
    done = []
    for step in steps:
        typer.echo(f"{step.state:>9}  {step.name}: {step.detail}")
        done.append(step)
    return done


def _figures(gate: dict[str, Any]) -> str:
    plain = {name: value for name, value in gate.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )


def _title(images: Path | None) -> str:
    from backend.local.demo import TITLE

    return f"{TITLE}: {images.resolve().name}" if images else TITLE


def _settings_of(stack: Stack) -> Settings:
    """The settings as the started parts have them."""
    os.environ.update(stack.environment)
    return Settings.from_environment()


def _client(settings: Settings) -> LabelStudio:
    from backend.label_studio.client import LabelStudio

    token = settings.label_studio_api_key.get_secret_value()
    if not settings.label_studio_url or not token:
        raise SettingsError(
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY", "at least one is not set", "set both, or use usam-backend up"
        )
    return LabelStudio(settings.label_studio_url, token)


def _store(settings: Settings) -> Store:
    from backend.store import Store

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Store(settings.store_url)


def _wake(settings: Settings, project: int, job: JobName) -> None:
    from backend.queue import open_queue

    open_queue(settings).wake(project, job)


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')}  {line}", err=True)


pseudo_label.register(app)
plan.register(app)


def main() -> None:
    """Entry point of the `usam-backend` script."""
    app()


if __name__ == "__main__":
    main()
