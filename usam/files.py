"""Files that are there whole or not at all, and files that are files."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file of the same ending to write to, which takes the place of `path` at the end, or goes where writing fails.

    Makes the folder where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def plain(path: Path) -> Path:
    """The same path, for opening. Raises `OSError` where a named pipe, a socket or a device is: reading one waits, or
    never ends. A folder, or nothing, is left to whoever opens it.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
            raise OSError(errno.EINVAL, f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a file", str(path))
    return path


def open_lock(path: Path) -> IO[str]:
    """A file to be locked, which holds nothing: what else is in its place is moved aside. Raises `OSError`."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            move_aside(path)
    return path.open("a")


def move_aside(path: Path) -> Path:
    """Give what is at a path another name beside it, `NAME.damaged-TIME`, which is returned. Raises `OSError`."""
    return path.replace(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
