"""Head-set versions of each project: immutable folders, and one pointer that moves at once.

    <folder>/<project>/versions/<version>/heads.safetensors   the heads
                                          version.json        digest, parent, samples used, the gate's figures
    <folder>/<project>/champion.json                          the version in use and how it came to be
    <folder>/<project>/damaged/                               versions that `repair` set aside

Beside each of these files lies a copy, from which a damaged one is mended when it is next read; one bad version hides
no other. A version's folder is made under another name and renamed when whole, the pointer is a file that is
replaced; so whoever is killed at whatever point leaves the state before or after, never one between.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import RegistryError
from backend.store.kept_twice import add_copy, copy_of, read_either, sync_folder, write_twice
from usam.errors import UsamError

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

HEADS_FILE = "heads.safetensors"
ABOUT_FILE = "version.json"
POINTER_FILE = "champion.json"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PARTIAL = ".partial-"
_KEEP_HISTORY = 200
REMEDY = "run `usam-backend repair`, or roll back to another version"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """One stored head set. `made_at` in seconds since 1970; `labels` names what it was trained on, `figures` are the
    gate's."""

    version: str
    parent: str
    made_at: float
    checkpoint: str
    samples: int
    labels: tuple[str, ...] = field(repr=False)
    figures: dict[str, Any] = field(repr=False)
    sha256: str = field(repr=False)


@dataclass(frozen=True)
class Promotion:
    """One move of the pointer. `kind` is `promotion`, `rollback` or `repair`; an empty version is the checkpoint's
    own."""

    version: str
    before: str
    kind: str
    at: float
    reason: str


class Registry:
    """The versions under `folder`. Any number of processes may read and write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(
        self,
        project: int,
        heads: HeadSet,
        *,
        parent: str = "",
        samples: int = 0,
        labels: Sequence[str] = (),
        figures: Mapping[str, Any] | None = None,
    ) -> Version:
        """Store a head set under its own version name; storing the same one again changes nothing.

        It is not in use before `promote`. Raises `RegistryError` where it cannot be written.
        """
        target = self._versions(project) / heads.version
        if self.damage(project, heads.version):
            facts = {"parent": parent, "samples": samples, "labels": list(labels), "figures": dict(figures or {})}
            try:
                if target.exists():
                    self.set_aside(project, heads.version)
                self._write(target, heads, facts)
            except OSError as error:
                raise RegistryError(
                    f"room and rights to write {target}", str(error), "free space or correct the rights"
                ) from error
        return self.about(project, heads.version)

    def versions(self, project: int) -> list[Version]:
        """All versions that can be read, oldest first; see `damaged` for the others."""
        readable = []
        for name in self._names(project):
            try:
                readable.append(self.about(project, name))
            except RegistryError as error:
                _log.warning("version %s of project %s is passed over: %s", name, project, error)
        return sorted(readable, key=lambda version: (version.made_at, version.version))

    def damaged(self, project: int) -> dict[str, str]:
        """Versions that cannot be used, with the reason. Reads every head file."""
        reasons = {name: self.damage(project, name) for name in self._names(project)}
        return {name: reason for name, reason in reasons.items() if reason}

    def damage(self, project: int, version: str) -> str:
        """Why a version cannot be used, empty where it can."""
        try:
            self.load(project, version)
        except UsamError as error:
            return str(error)
        return ""

    def projects(self) -> list[int]:
        """Projects that have a folder here."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal())

    def about(self, project: int, version: str) -> Version:
        """What is known of a version. Raises `RegistryError` where it is missing or unreadable."""
        path = self._folder_of(project, version) / ABOUT_FILE
        try:
            return read_either(path, _parse_version)
        except FileNotFoundError:
            raise RegistryError(
                f"version {version!r} of project {project}", "no such version", "see `usam-backend versions`"
            ) from None
        except (OSError, ValueError) as error:
            raise RegistryError(f"a readable {path}", str(error), REMEDY) from error

    def load(self, project: int, version: str) -> HeadSet:
        """Read a version's heads after checking their digest. Raises `RegistryError` where they were
        altered."""
        from usam.heads.head_set import HeadSet

        expected = self.about(project, version).sha256
        path = self._folder_of(project, version) / HEADS_FILE

        def check(content: bytes) -> None:
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError("another digest than when it was published")

        try:
            read_either(path, check)
        except (OSError, ValueError) as error:
            raise RegistryError(f"{path} as it was published", str(error), REMEDY) from error
        return HeadSet.load(path)

    def champion(self, project: int) -> str:
        """Name of the version in use, empty for the heads that come with the checkpoint."""
        return str(self._pointer(project).get("version", ""))

    def current(self, project: int) -> Version | None:
        """The version in use, None for the heads that come with the checkpoint."""
        name = self.champion(project)
        return self.about(project, name) if name else None

    def history(self, project: int) -> list[Promotion]:
        """Moves of the pointer, oldest first."""
        return [Promotion(**step) for step in self._pointer(project).get("history", [])]

    def promote(self, project: int, version: str, reason: str = "") -> None:
        """Put a published version in use. Promoting the one in use changes nothing."""
        self._move(project, version, "promotion", reason)

    def rollback(self, project: int, to: str | None = None, reason: str = "") -> Version | None:
        """Put an earlier version in use again: `to`, or the one before the present. Returns it.

        None stands for the heads that come with the checkpoint, which is where the first promotion leads
        back to. Called again without `to`, it goes back one more. Raises `RegistryError` where there is
        nothing before.
        """
        if to is None:
            stack = [""]
            for step in self.history(project):
                if step.kind != "promotion" and step.version in stack:
                    del stack[stack.index(step.version) + 1 :]
                else:
                    stack.append(step.version)
            usable = [name for name in stack[:-1] if not name or not self.damage(project, name)]
            if not usable:
                raise RegistryError(
                    f"an earlier version of project {project}", "none", "there is nothing to go back to"
                )
            to = usable[-1]
        self._move(project, to, "rollback", reason)
        return self.about(project, to) if to else None

    # mending

    def keep_copies(self) -> int:
        """Give every file that is in order the copy it lacks, as those of earlier releases do; returns how many."""
        added = 0
        for project in self.projects():
            paths: list[tuple[Path, Callable[[bytes], object]]] = [
                (self._project(project) / POINTER_FILE, _parse_pointer)
            ]
            for name in self._names(project):
                if not self.damage(project, name):
                    folder = self._folder_of(project, name)
                    paths += [(folder / ABOUT_FILE, _parse_version), (folder / HEADS_FILE, len)]
            for path, parse in paths:
                with suppress(OSError, ValueError):
                    added += add_copy(path, parse)
        return added

    def repair(self, project: int) -> list[str]:
        """Make a project usable from what is intact; returns what was done, a line each, none where nothing had to be.

        Versions that cannot be used are set aside. A pointer that cannot be read, or that names one of these, goes to
        the newest intact version it named before, else to the newest intact one, else to the checkpoint's own heads.
        """
        lines = []
        for name, reason in self.damaged(project).items():
            lines.append(f"version {name} set aside in {self.set_aside(project, name)}: {reason}")
        with self._lock(project):
            path = self._project(project) / POINTER_FILE
            try:
                pointer = self._pointer(project)
                version, history = str(pointer.get("version", "")), pointer.get("history", [])
                if not version or (self._folder_of(project, version)).exists():
                    return lines
                why = f"it named {version}, which cannot be used"
            except RegistryError as error:
                version, history, why = "", [], error.got
                for damaged in (path, copy_of(path)):
                    if damaged.exists():
                        os.replace(damaged, damaged.with_name(damaged.name + ".damaged"))
            intact = [known.version for known in self.versions(project)]
            earlier = [str(step["version"]) for step in history if step["version"] in intact]
            chosen = next(reversed(earlier or intact), "")
            self._point(project, chosen, version, "repair", why, history)
        lines.append(f"{POINTER_FILE}: now {chosen or 'the heads that come with the checkpoint'}; {why}")
        return lines

    def set_aside(self, project: int, version: str) -> Path:
        """Move a version's folder out of the way; returns where it lies now."""
        target = self._project(project) / "damaged" / f"{version}-{time.time_ns()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._folder_of(project, version), target)
        sync_folder(target.parent)
        return target

    # files

    def _names(self, project: int) -> list[str]:
        folder = self._versions(project)
        return (
            sorted(path.name for path in folder.iterdir() if _VERSION.fullmatch(path.name)) if folder.is_dir() else []
        )

    def _point(
        self, project: int, version: str, before: str, kind: str, reason: str, history: Sequence[dict[str, Any]]
    ) -> None:
        step = {"version": version, "before": before, "kind": kind, "at": time.time(), "reason": reason}
        content = {"version": version, "history": [*history, step][-_KEEP_HISTORY:]}
        write_twice(self._project(project) / POINTER_FILE, json.dumps(content, indent=1).encode())

    def _move(self, project: int, version: str, kind: str, reason: str) -> None:
        if version:
            self.load(project, version)  # refuse to point at heads that cannot be used
        with self._lock(project):
            pointer = self._pointer(project)
            before = str(pointer.get("version", ""))
            if before == version:
                return
            self._point(project, version, before, kind, reason, pointer.get("history", []))

    def _write(self, target: Path, heads: HeadSet, facts: dict[str, Any]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._sweep(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=target.parent))
        try:
            file = heads.save(partial / HEADS_FILE)
            content = file.read_bytes()
            write_twice(file, content)
            known = {
                "version": heads.version,
                **facts,
                "made_at": time.time(),
                "checkpoint": heads.checkpoint,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            write_twice(partial / ABOUT_FILE, json.dumps(known, indent=1).encode())
            try:
                os.rename(partial, target)
            except OSError:
                if not (target / ABOUT_FILE).exists():  # another process published the same in the meantime
                    raise
            sync_folder(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @staticmethod
    def _sweep(folder: Path, older_than: float = 3600.0) -> None:
        """Remove what a killed process left half-written, once nobody can still be at it."""
        for path in folder.glob(f"{_PARTIAL}*"):
            try:
                if time.time() - path.stat().st_mtime > older_than:
                    shutil.rmtree(path, ignore_errors=True)
            except FileNotFoundError:
                continue

    def _pointer(self, project: int) -> dict[str, Any]:
        path = self._project(project) / POINTER_FILE
        try:
            return read_either(path, _parse_pointer)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RegistryError(f"a readable {path}", str(error), REMEDY) from error

    def _project(self, project: int) -> Path:
        return self.folder / str(int(project))

    def _versions(self, project: int) -> Path:
        return self._project(project) / "versions"

    def _folder_of(self, project: int, version: str) -> Path:
        if not _VERSION.fullmatch(version):
            raise RegistryError("a version's name", repr(version[:80]), "see `usam-backend versions`")
        return self._versions(project) / version

    @contextmanager
    def _lock(self, project: int) -> Iterator[None]:
        folder = self._project(project)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _parse_version(content: bytes) -> Version:
    """Raises `ValueError`."""
    try:
        facts = json.loads(content)
        return Version(
            version=str(facts["version"]),
            parent=str(facts["parent"]),
            made_at=float(facts["made_at"]),
            checkpoint=str(facts["checkpoint"]),
            samples=int(facts["samples"]),
            labels=tuple(facts["labels"]),
            figures=dict(facts["figures"]),
            sha256=str(facts["sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _parse_pointer(content: bytes) -> dict[str, Any]:
    """Raises `ValueError`."""
    pointer = json.loads(content)
    try:
        [Promotion(**step) for step in pointer["history"]]
        if pointer["version"] and not _VERSION.fullmatch(pointer["version"]):
            raise ValueError("it names no version")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return dict(pointer)
