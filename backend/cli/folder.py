"""Which data folder a command works on, and what it opens there. No command makes a database where there was none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.errors import SettingsError, StoreError
from backend.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from backend.label_studio.client import LabelStudio
    from backend.local.running import RunningStack
    from backend.queue import JobName
    from backend.store import Store
    from backend.web.dashboard.actions import ActionLog, ActionName

ProjectId = Annotated[int, typer.Option("--project", help="Number of the Label Studio project.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


NARROW = 60
"""Columns below which a table's cells would hold a few letters each."""


def say(line: str) -> None:
    """A line for people, on standard error; a terminal that is gone keeps nobody from their work."""
    with suppress(OSError, ValueError):
        typer.echo(f"{time.strftime('%H:%M:%S')}  {line}", err=True)


def console() -> Console:
    """For tables on standard output, in which names and reasons stand as they are: what another wrote may look like
    marks of a style, and would be read as such."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on standard output; on a terminal that is too narrow for one, a line for each row."""
    from rich.table import Table

    out = console()
    if out.width < NARROW:
        for line in (title, *(", ".join(filter(None, row)) for row in rows)):
            out.print(line) if line else None
        return
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_json(content: Any) -> None:
    """The one thing on standard output."""
    typer.echo(json.dumps(content, indent=1, default=str))


def settings_in_use(*, needs_store: bool = True, tell: Callable[[str], None] = say) -> Settings:
    """The settings of the environment, with the data folder that is meant and what its running stack tells.

    The folder is USAM_DATA_DIR's, else `var` here, else that of the one stack this user has running; `tell` is told
    which. Variables that are set win. Raises `SettingsError` where there is no store, or two stacks that may be meant.
    """
    from backend.local.running import running_in, running_stacks

    settings = Settings.from_environment()
    here = settings.data_dir.resolve()
    stack = running_in(here)
    if stack is None and not has_store(settings) and "USAM_DATA_DIR" not in os.environ:
        stack = _only(running_stacks())
    if stack is not None:
        settings = _with_stack(stack)
    if needs_store and not has_store(settings):
        raise SettingsError(
            "a data folder with a store",
            f"none in {here}, and no stack that runs",
            "start usam-backend up, go to the folder where it was started, or set USAM_DATA_DIR",
        )
    where = "the database of USAM_DATABASE_URL" if settings.database_url.get_secret_value() else settings.data_dir
    tell(f"reading {where}" + (", whose stack runs" if stack is not None else ""))
    return settings


def _with_stack(stack: RunningStack) -> Settings:
    told = {name: value for name, value in stack.environment.items() if name not in os.environ}
    fields = {name.removeprefix("USAM_").lower(): value for name, value in told.items()}
    known = {field: value for field, value in fields.items() if field in Settings.model_fields}
    return Settings.from_environment(**{**known, "data_dir": stack.folder})


def has_store(settings: Settings) -> bool:
    """Whether there is a store to open, so that none is made by asking."""
    return bool(settings.database_url.get_secret_value()) or (settings.data_dir / "usam.db").is_file()


def _only(stacks: list[RunningStack]) -> RunningStack | None:
    if len(stacks) > 1:
        folders = ", ".join(str(stack.folder) for stack in stacks)
        raise SettingsError("one stack that runs", f"{len(stacks)}: {folders}", "set USAM_DATA_DIR to the one you mean")
    return stacks[0] if stacks else None


@contextmanager
def open_store(settings: Settings, project_id: int | None = None) -> Iterator[Store]:
    """The store. Raises `SettingsError` where it does not know the project, `StoreError` where it is damaged."""
    import sqlalchemy as sql

    from backend.store import Store

    store = Store(settings.store_url)
    try:
        if project_id is not None:
            check_project(store, project_id)
        yield store
    except sql.exc.DatabaseError as error:
        got = str(error.orig) if error.orig is not None else type(error).__name__
        remedy = "run `usam-backend repair`"
        if settings.database_url.get_secret_value():
            remedy = "see to the database of USAM_DATABASE_URL"
        elif isinstance(error, sql.exc.OperationalError):  # it is whole, but full, shut or held
            remedy = "free space, correct the rights of the data folder, or end what has it locked"
        raise StoreError("a store that can be used", " ".join(got.split())[:300], remedy) from error
    finally:
        store.close()


def check_project(store: Store, project_id: int) -> None:
    """Raise `SettingsError` for a project that is not looked after."""
    known = store.projects()
    if project_id not in known:
        raise SettingsError(
            f"a project that is looked after ({', '.join(map(str, known)) or 'there is none yet'})",
            str(project_id),
            f"correct the number, or connect it first: usam-backend connect --project {project_id}",
        )


def open_label_studio(settings: Settings) -> LabelStudio:
    """A client of Label Studio. Raises `SettingsError` where its address or token is not known."""
    from backend.label_studio.client import LabelStudio

    token = settings.label_studio_api_key.get_secret_value()
    if not settings.label_studio_url or not token:
        raise SettingsError(
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
            "at least one is not set, and no stack runs that would tell",
            "start usam-backend up, or set both",
        )
    return LabelStudio(settings.label_studio_url, token)


def ask_for(settings: Settings, project_id: int, job: JobName) -> None:
    """Queue a job. Raises `QueueError` where Redis does not answer."""
    from backend.queue import open_queue

    open_queue(settings).enqueue(project_id, job)


def act(settings: Settings, store: Store, action: ActionName, project_id: int, version: str = "") -> str:
    """Do what a button of the page does, in the name of who sits here; returns what came of it.

    Raises `UsamError` where nothing did. Either is written down with the page's.
    """
    from backend.queue import open_queue
    from backend.store.head_registry import Registry
    from backend.web.dashboard.actions import Actions, Wish

    actions = Actions(store, Registry(settings.registry_dir), open_queue(settings), action_log(settings), settings)
    return actions.do(Wish(action, project_id, version), at_this_machine())


def write_down(settings: Settings, action: ActionName, project_id: int, outcome: str) -> None:
    """Keep what a command did itself, beside what is done from the page."""
    from backend.web.dashboard.actions import Done

    action_log(settings).add(Done.now(at_this_machine(), action, project_id, outcome))


def action_log(settings: Settings) -> ActionLog:
    """What was done from the page, by calls and by commands, with who and when."""
    from backend.web.dashboard.actions import LOG_FILE, ActionLog

    return ActionLog(settings.data_dir / LOG_FILE, aloud=False)


def at_this_machine() -> str:
    """Who gives a command, as it is written down.

    >>> at_this_machine().endswith(" on the command line")
    True
    """
    import getpass

    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        who = f"user {os.getuid()}"
    return f"{who} on the command line"


def data_folder(settings: Settings) -> Path:
    """The data folder, made where there is none and its owner's alone from then on; what is misplaced in it is set
    aside."""
    from backend.store.mending import set_aside_misplaced

    os.umask(0o077)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    set_aside_misplaced(settings.data_dir)
    return settings.data_dir
