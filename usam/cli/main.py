"""`usam ...`: the command line of the library.

The commands live in `usam.cli`, a module per topic. Nothing here imports torch: a command does that when
it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from usam import __version__
from usam.errors import UsamError

TOPICS = ("library", "demo", "science", "nano", "simulate")
"""Modules of `usam.cli` in the order of the help; one that is not installed is left out."""


class ErrorGroup(TyperGroup):
    """A group that prints an error of ours as one line and exits with 2, unless `--debug` was given."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UsamError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo("usam: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="usam",
    cls=ErrorGroup,
    help="A SAM 2 that says why it is unsure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"usam {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A SAM 2 that says why it is unsure."""
    warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated", FutureWarning)


def register_topics(application: typer.Typer) -> None:
    """Add the commands of every topic that is installed."""
    for topic in TOPICS:
        name = f"usam.cli.{topic}"
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).register(application)


register_topics(app)


def main() -> None:
    """Entry point of the `usam` script."""
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
