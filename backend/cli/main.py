"""`usam-backend ...`: start everything, or one part, and look after projects.

Nothing here imports torch or starts a connection before a command runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli import connect, import_video, plan, projects, pseudo_label, review, similar, track, up
from backend.cli.folder import data_folder
from backend.settings import Settings
from usam.cli.main import ErrorGroup

app = typer.Typer(
    name="usam-backend",
    cls=ErrorGroup,
    help="Label Studio with a SAM 2 that says why it is unsure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False) -> None:
    """Label Studio with a SAM 2 that says why it is unsure."""


up.register(app)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the backend that Label Studio talks to."""
    import uvicorn

    from backend.local.processes import check_port
    from backend.web.service import service_app

    settings = Settings.from_environment(host=host, port=port)
    check_port(settings.port, settings.host)
    data_folder(settings)
    for name, value in settings.summary().items():
        typer.echo(f"{name}={value}", err=True)
    uvicorn.run(service_app(settings), host=settings.host, port=settings.port, log_level="warning", access_log=False)


@app.command()
def worker() -> None:
    """Run a worker: it syncs, retrains and ranks. Several may run, here or on other hosts."""
    from backend.jobs.worker import work
    from backend.store.head_registry import Registry

    settings = Settings.from_environment()
    data_folder(settings)
    Registry(settings.registry_dir).keep_copies()
    work(settings)


for topic in (connect, import_video, track, projects, similar, review, pseudo_label, plan):
    topic.register(app)


def main() -> None:
    """Entry point of the `usam-backend` script."""
    app()


if __name__ == "__main__":
    main()
