"""How a command finds the stack that runs: its folder, noted for this user, and in it the settings, the owner's alone.

<data folder>/up.env                      LABEL_STUDIO_URL and what else another shell needs, for `set -a; . up.env`
<data folder>/up.json                     who runs: process, ports, groups
$XDG_STATE_HOME/usam/stacks/<digest>      the data folder's path; by default below ~/.local/state
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.local.processes import identity
from backend.store.kept_twice import read_either, write_private, write_twice
from usam.files import plain

ENV_FILE = "up.env"
STATE_FILE = "up.json"


@dataclass(frozen=True)
class RunningStack:
    """A started stack: where its data are, and the settings by which to talk to it."""

    folder: Path
    environment: dict[str, str] = field(repr=False)


def state_dir() -> Path:
    """Where this user's stacks are noted. Raises `OSError` for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "usam" / "stacks"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def announce(folder: Path, environment: Mapping[str, str]) -> Path:
    """Write the settings of a started stack and note its folder; returns the settings' file. Raises `OSError` where the
    data folder cannot be written; a home folder that cannot be written is done without."""
    path = folder / ENV_FILE
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in environment.items()]
    write_private(path, os.fsencode("".join(lines)))
    with suppress(OSError):
        state_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(_note_of(folder), os.fsencode(folder))
    return path


def withdraw(folder: Path) -> None:
    """Take back what `announce` noted, for a stack that stops."""
    with suppress(OSError):
        (folder / ENV_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        _note_of(folder).unlink(missing_ok=True)


def running_in(folder: Path) -> RunningStack | None:
    """The stack that runs on a data folder, None where none does."""
    process = recall(folder).get("process", {})
    if not isinstance(process, dict):
        return None
    pid, began = process.get("pid"), process.get("identity")
    if not isinstance(pid, int) or not began or identity(pid) != began:
        return None
    try:
        words = shlex.split(os.fsdecode(plain(folder / ENV_FILE).read_bytes()))
    except (OSError, ValueError):
        return None
    return RunningStack(folder, dict(word.split("=", 1) for word in words if "=" in word))


def running_stacks() -> list[RunningStack]:
    """All stacks that this user has running."""
    stacks, notes = [], list[Path]()
    with suppress(OSError):
        notes = sorted(state_dir().iterdir())
    for note in notes:
        try:
            folder = Path(os.fsdecode(plain(note).read_bytes()))
        except (OSError, ValueError):
            continue
        stack = running_in(folder)
        if stack is not None:
            stacks.append(stack)
    return stacks


def recall(folder: Path) -> dict[str, Any]:
    """What the last run noted of itself; empty where that is not to be read."""
    try:
        return read_either(folder / STATE_FILE, _parse_notes)
    except (OSError, ValueError):
        return {}


def _parse_notes(content: bytes) -> dict[str, Any]:
    """Raises `ValueError`."""
    try:
        noted = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(noted, dict):
        raise ValueError("no object")
    return noted


def remember(folder: Path, notes: Mapping[str, Any]) -> None:
    """Note a run, with the process that it is."""
    mine = {"pid": os.getpid(), "identity": identity(os.getpid())}
    write_twice(folder / STATE_FILE, json.dumps({**notes, "process": mine}).encode())


def _note_of(folder: Path) -> Path:
    return state_dir() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
