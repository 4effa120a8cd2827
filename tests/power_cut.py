"""What is on a disk after the power was cut: a model of a file system that keeps nothing it was not told to keep.

`Disk` watches `os.fsync` below one folder. A file's content is kept as it was at its last fsync, else it is empty; a
folder's names are kept as they were at its last fsync, else it has none. `Cut.after_cut` writes what is left into
another folder. With `names_survive` the names are those of the moment and only contents were lost, as where a file
system writes its names first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Cut:
    """One moment at which the power may go. Inode -> content, or names, that reached the disk; `now` has every path."""

    root: int
    contents: dict[int, bytes]
    names: dict[int, dict[str, int]]
    folders: set[int]
    now: dict[str, tuple[int, bool]]

    def after_cut(self, target: Path, *, names_survive: bool = False) -> Path:
        """Write what is left into a folder."""
        target.mkdir(parents=True)
        if not names_survive:
            self._write(self.root, target)
        for name, (number, is_folder) in self.now.items() if names_survive else ():
            if is_folder:
                (target / name).mkdir()
            else:
                (target / name).write_bytes(self.contents.get(number, b""))
        return target

    def _write(self, folder: int, target: Path) -> None:
        for name, number in self.names.get(folder, {}).items():
            if number in self.folders:
                (target / name).mkdir()
                self._write(number, target / name)
            else:
                (target / name).write_bytes(self.contents.get(number, b""))


@dataclass
class Disk:
    """What has reached the disk below `folder`; `cuts` are the moments before and after every fsync, and the last."""

    folder: Path
    contents: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    cuts: list[Cut] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def note(self, handle: int) -> None:
        """Take over what an fsync of this handle keeps."""
        self.cut()
        facts = os.fstat(handle)
        self.held.append(os.dup(handle))  # no other file gets its number
        if stat.S_ISDIR(facts.st_mode):
            below = list(Path(os.readlink(f"/proc/self/fd/{handle}")).iterdir())
            self.folders |= {path.stat().st_ino for path in below if path.is_dir()}
            self.names[facts.st_ino] = {path.name: path.stat().st_ino for path in below}
        else:
            self.contents[facts.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()
        self.cut()

    def cut(self) -> Cut:
        """Remember this moment."""
        paths = [path for path in sorted(self.folder.rglob("*")) if path.exists()]
        now = {str(path.relative_to(self.folder)): (path.stat().st_ino, path.is_dir()) for path in paths}
        root = self.folder.stat().st_ino
        self.cuts.append(Cut(root, dict(self.contents), dict(self.names), set(self.folders), now))
        return self.cuts[-1]


@contextmanager
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Watch what is told to be kept below `folder` until the block ends."""
    disk = Disk(folder)
    real = os.fsync

    def fsync(handle: int) -> None:
        disk.note(handle)
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        yield disk
        disk.cut()
    for handle in disk.held:
        os.close(handle)
