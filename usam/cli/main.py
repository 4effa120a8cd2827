"""`usam ...`: the command line of the library.

The commands live in `usam.cli`, a module per topic. Nothing here imports torch: a command does that when
it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
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
    """A group that prints an error as one line and exits with 2, with 1 where it is none of ours, unless `--debug` was
    given. What no stream of this machine's encoding can show is shown as an escape."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except Exception as error:
            is_the_parser_s = isinstance(error, typer.Abort | BrokenPipeError) or hasattr(error, "exit_code")
            if is_the_parser_s or ctx.params.get("debug"):
                raise
            typer.echo("usam: " + " ".join(told(error).split()), err=True)
            raise typer.Exit(2 if isinstance(error, UsamError | OSError) else 1) from None


def told(error: Exception) -> str:
    """An error in a sentence.

    >>> told(FileExistsError(17, "File exists", "/data"))
    "expected files to be as this command needs them, got '/data': File exists; correct it or its rights"
    """
    if isinstance(error, UsamError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename!r}: " if error.filename else ""
        got = f"{where}{error.strerror}"
        return f"expected files to be as this command needs them, got {got}; correct it or its rights"
    got = f"{type(error).__name__}: {error}"[:500]
    return f"expected this to work, got {got}; put --debug before the command to see where, and report it"


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
