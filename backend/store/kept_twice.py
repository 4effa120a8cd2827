"""Small files of which a copy lies beside: one that is damaged is mended from the other when it is next read."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from usam.files import plain

Content = TypeVar("Content")
COPY = ".copy"
DAMAGED = ".damaged"
_log = logging.getLogger(__name__)


def copy_of(path: Path) -> Path:
    """Where the copy of a file lies."""
    return path.with_name(path.name + COPY)


def write_twice(path: Path, content: bytes) -> None:
    """Write a file and then its copy, each whole or not at all."""
    write_private(path, content)
    write_private(copy_of(path), content)


def read_either(path: Path, parse: Callable[[bytes], Content]) -> Content:
    """What `parse` makes of the file, else of its copy, which then takes the file's place.

    `parse` raises `ValueError` for content that is damaged. A damaged file is kept as `NAME.damaged`.
    Raises `FileNotFoundError` where neither is there, `OSError` or `ValueError` (the file's, its copy's where only that
    is there) where neither can be used.
    """
    try:
        return parse(plain(path).read_bytes())
    except (OSError, ValueError) as error:
        try:
            content = plain(copy_of(path)).read_bytes()
            parsed = parse(content)
        except (OSError, ValueError) as damage:
            is_lost = isinstance(error, FileNotFoundError) and not isinstance(damage, FileNotFoundError)
            raise (damage if is_lost else error) from None
        _log.warning("%s was damaged (%s): mended from its copy", path, error)
        try:
            if path.exists():
                os.replace(path, path.with_name(path.name + DAMAGED))
            write_private(path, content)
        except OSError as refused:
            _log.warning("%s could not be written: %s", path, refused)
        return parsed


def add_copy(path: Path, parse: Callable[[bytes], object]) -> bool:
    """Write the copy of a file that is in order and has none, or a damaged one; whether it was needed."""
    content = plain(path).read_bytes()
    parse(content)
    try:
        if plain(copy_of(path)).read_bytes() == content:
            return False
    except OSError:
        pass
    write_private(copy_of(path), content)
    return True


def write_private(path: Path, content: bytes) -> None:
    """Write `content` so that it appears whole or not at all, also after a loss of power; its owner's alone."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it that are missing, so that their names survive a loss of power."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
