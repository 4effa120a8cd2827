"""Head-set versions of each project: immutable folders, and one pointer that moves at once.

    <folder>/<project>/versions/<version>/heads.safetensors   the heads
                                          version.json        digest, parent, samples used, the gate's figures
    <folder>/<project>/champion.json                          the version in use and how it came to be

A version's folder is made under another name and renamed when whole, the pointer is a file that is
replaced; so whoever is killed at whatever point leaves the state before or after, never one between.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import RegistryError

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet

HEADS_FILE = "heads.safetensors"
ABOUT_FILE = "version.json"
POINTER_FILE = "champion.json"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PARTIAL = ".partial-"
_KEEP_HISTORY = 200


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
    """One move of the pointer. `kind` is `promotion` or `rollback`; an empty version is the checkpoint's
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
        if not (target / ABOUT_FILE).exists():
            try:
                known = {"parent": parent, "samples": samples, "labels": list(labels), "figures": dict(figures or {})}
                self._write(target, heads, known)
            except OSError as error:
                raise RegistryError(
                    f"room and rights to write {target}", str(error), "free space or correct the rights"
                ) from error
        return self.about(project, heads.version)

    def versions(self, project: int) -> list[Version]:
        """All whole versions, oldest first."""
        folder = self._versions(project)
        names = [path.name for path in folder.iterdir() if (path / ABOUT_FILE).exists()] if folder.is_dir() else []
        found = [self.about(project, name) for name in names if not name.startswith(".")]
        return sorted(found, key=lambda version: (version.made_at, version.version))

    def about(self, project: int, version: str) -> Version:
        """What is known of a version. Raises `RegistryError` where it is missing or unreadable."""
        path = self._folder_of(project, version) / ABOUT_FILE
        try:
            known = json.loads(path.read_text())
            return Version(
                version=str(known["version"]),
                parent=str(known["parent"]),
                made_at=float(known["made_at"]),
                checkpoint=str(known["checkpoint"]),
                samples=int(known["samples"]),
                labels=tuple(known["labels"]),
                figures=dict(known["figures"]),
                sha256=str(known["sha256"]),
            )
        except FileNotFoundError:
            raise RegistryError(
                f"version {version!r} of project {project}", "no such version", "see `usam-backend versions`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"a readable {path}", str(error), "restore it, or roll back to another") from error

    def load(self, project: int, version: str) -> HeadSet:
        """Read a version's heads after checking their digest. Raises `RegistryError` where they were
        altered."""
        from usam.heads.head_set import HeadSet

        known = self.about(project, version)
        path = self._folder_of(project, version) / HEADS_FILE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise RegistryError(f"a readable {path}", str(error), "roll back to another version") from error
        if digest != known.sha256:
            raise RegistryError(
                f"{path} as it was published", "another digest", "restore it, or roll back to another version"
            )
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
        return [Promotion(**one) for one in self._pointer(project).get("history", [])]

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
                if step.kind == "promotion":
                    stack.append(step.version)
                elif step.version in stack:
                    del stack[stack.index(step.version) + 1 :]
            if len(stack) < 2:
                raise RegistryError(
                    f"an earlier version of project {project}", "none", "there is nothing to go back to"
                )
            to = stack[-2]
        self._move(project, to, "rollback", reason)
        return self.about(project, to) if to else None

    # files

    def _move(self, project: int, version: str, kind: str, reason: str) -> None:
        if version:
            self.load(project, version)  # refuse to point at heads that cannot be used
        with self._lock(project):
            pointer = self._pointer(project)
            before = str(pointer.get("version", ""))
            if before == version:
                return
            step = {"version": version, "before": before, "kind": kind, "at": time.time(), "reason": reason}
            history = [*pointer.get("history", []), step][-_KEEP_HISTORY:]
            content = json.dumps({"version": version, "history": history}, indent=1).encode()
            _replace(self._project(project) / POINTER_FILE, content)

    def _write(self, target: Path, heads: HeadSet, facts: dict[str, Any]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._sweep(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=target.parent))
        try:
            file = heads.save(partial / HEADS_FILE)
            known = {
                "version": heads.version,
                **facts,
                "made_at": time.time(),
                "checkpoint": heads.checkpoint,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            _replace(partial / ABOUT_FILE, json.dumps(known, indent=1).encode())
            partial.chmod(0o755)
            try:
                os.rename(partial, target)
            except OSError:
                if not (target / ABOUT_FILE).exists():  # another process published the same in the meantime
                    raise
            _sync_folder(target.parent)
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
            known = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RegistryError(f"a readable {path}", str(error), "restore it from a backup") from error
        return known if isinstance(known, dict) else {}

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


def _replace(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that it appears whole or not at all, also after a loss of power."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
