"""Versions of each project: immutable folders, and one pointer that moves at once.

    <folder>/<project>/versions/<version>/heads.safetensors   the heads
                                          learnt.safetensors  what the project wants and calls things, if it is learnt
                                          decoder.safetensors a mask decoder of its own, if it has one
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
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import RegistryError
from backend.store.head_versions import VERSION_NAME, Promotion, Version, parse_pointer
from backend.store.kept_twice import add_copy, copy_of, make_folder, read_either, sync_folder, write_twice
from usam.errors import UsamError
from usam.files import open_lock

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.own_decoder import TunedDecoder

HEADS_FILE = "heads.safetensors"
LEARNT_FILE = "learnt.safetensors"
DECODER_FILE = "decoder.safetensors"
ABOUT_FILE = "version.json"
POINTER_FILE = "champion.json"
_PARTIAL = ".partial-"
_KEEP_HISTORY = 200
RIGHTS, ROOM = "correct its rights", "free space or correct the rights"
REMEDY = "run `usam-backend repair`, or roll back to another version"
_log = logging.getLogger(__name__)


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
        learnt: ProjectHeads | None = None,
        decoder: TunedDecoder | None = None,
    ) -> Version:
        """Store a head set, and beside it what was `learnt` of the project's objects and a `decoder` whose tokens the
        heads read, under a name of their own; storing the same again changes nothing.

        It is not in use before `promote`. Raises `RegistryError` where it cannot be written.
        """
        files: dict[str, bytes] = {}
        facts = {"parent": parent, "samples": samples, "labels": list(labels), "figures": dict(figures or {})}
        facts["heads"] = heads.version
        if learnt is not None:
            from usam.objects.files import project_heads_file

            files[LEARNT_FILE] = project_heads_file(learnt)
            facts |= {"learnt_sha256": _digest(files[LEARNT_FILE]), "classes": list(learnt.classes)}
            facts["learnt_figures"] = {key: value for key, value in learnt.figures.items() if value == value}
        if decoder is not None:
            from usam.predictor.own_decoder import decoder_file

            files[DECODER_FILE] = decoder_file(decoder)
            facts |= {"decoder_sha256": _digest(files[DECODER_FILE]), "decoder": decoder.version}
            facts["decoder_figures"] = decoder.figures
        parts = [heads.version, *map(_digest, files.values())]
        name = _digest("+".join(parts).encode())[:12] if files else heads.version
        target = self._versions(project) / name
        if self.damage(project, name):
            try:
                if target.exists():
                    self.set_aside(project, name)
                self._write(target, heads, {"version": name, **facts}, files)
            except OSError as error:
                raise RegistryError(f"room and rights to write {target}", str(error), ROOM) from error
        return self.about(project, name)

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
            self.load_learnt(project, version)
            self.load_decoder(project, version)
        except UsamError as error:
            return str(error)
        return ""

    def projects(self) -> list[int]:
        """Projects that have a folder here. Raises `RegistryError` where that cannot be told."""
        try:
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self.folder, error) from error

    def about(self, project: int, version: str) -> Version:
        """What is known of a version. Raises `RegistryError` where it is missing or unreadable."""
        path = self._folder_of(project, version) / ABOUT_FILE
        try:
            return read_either(path, Version.parse)
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

        path = self._checked(project, version, HEADS_FILE, self.about(project, version).sha256)
        return HeadSet.load(path)

    def load_learnt(self, project: int, version: str) -> ProjectHeads | None:
        """Read what a version has learnt of the project's objects; None where it has learnt nothing of them. Raises
        `RegistryError` where the file was altered."""
        from usam.objects.files import load_project_heads

        expected = self.about(project, version).learnt_sha256
        return load_project_heads(self._checked(project, version, LEARNT_FILE, expected)) if expected else None

    def load_decoder(self, project: int, version: str) -> TunedDecoder | None:
        """Read the mask decoder of a version, for whatever checkpoint it is; None where it decodes with the
        checkpoint's. Raises `RegistryError` where the file was altered."""
        from usam.predictor.own_decoder import load_decoder

        expected = self.about(project, version).decoder_sha256
        return load_decoder(self._checked(project, version, DECODER_FILE, expected)) if expected else None

    def _checked(self, project: int, version: str, name: str, expected: str) -> Path:
        """The path of a version's file, once it is as it was published, mended from its copy where needed."""
        path = self._folder_of(project, version) / name

        def check(content: bytes) -> None:
            if _digest(content) != expected:
                raise ValueError("another digest than when it was published")

        try:
            read_either(path, check)
        except (OSError, ValueError) as error:
            raise RegistryError(f"{path} as it was published", str(error), REMEDY) from error
        return path

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
        """Give every file that is in order the copy it lacks, as those of earlier releases do; returns how many. What
        cannot be read gets none."""
        added, projects = 0, list[int]()
        try:
            projects = self.projects()
        except RegistryError as error:
            _log.warning("no copies of head sets are made: %s", error)
        for project in projects:
            for path, parse in self._files_in_order(project):
                with suppress(OSError, ValueError):
                    added += add_copy(path, parse)
        return added

    def _files_in_order(self, project: int) -> list[tuple[Path, Callable[[bytes], object]]]:
        """The files of a project that are to have copies, each with what reads it."""
        paths: list[tuple[Path, Callable[[bytes], object]]] = [(self._project(project) / POINTER_FILE, parse_pointer)]
        with suppress(RegistryError):
            for name in self._names(project):
                if not self.damage(project, name):
                    folder = self._folder_of(project, name)
                    paths += [(folder / ABOUT_FILE, Version.parse), (folder / HEADS_FILE, len)]
                    paths += [(folder / kind, len) for kind in (LEARNT_FILE, DECODER_FILE) if (folder / kind).exists()]
        return paths

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
        make_folder(target.parent)
        source = self._folder_of(project, version)
        os.rename(source, target)
        for folder in (target.parent, source.parent):
            sync_folder(folder)
        return target

    # files

    def _names(self, project: int) -> list[str]:
        """Raises `RegistryError` where the folder cannot be read."""
        folder = self._versions(project)
        try:
            return sorted(path.name for path in folder.iterdir() if VERSION_NAME.fullmatch(path.name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _point(
        self, project: int, version: str, before: str, kind: str, reason: str, history: Sequence[dict[str, Any]]
    ) -> None:
        step = {"version": version, "before": before, "kind": kind, "at": time.time(), "reason": reason}
        content = {"version": version, "history": [*history, step][-_KEEP_HISTORY:]}
        write_twice(self._project(project) / POINTER_FILE, json.dumps(content, indent=1).encode())

    def _move(self, project: int, version: str, kind: str, reason: str) -> None:
        if version:
            self.load(project, version)  # refuse to point at heads that cannot be used
        try:
            with self._lock(project):
                pointer = self._pointer(project)
                before = str(pointer.get("version", ""))
                if before == version:
                    return
                self._point(project, version, before, kind, reason, pointer.get("history", []))
        except OSError as error:
            where = self._project(project)
            raise RegistryError(f"room and rights to write {where}", str(error), ROOM) from error

    def _write(self, target: Path, heads: HeadSet, facts: dict[str, Any], files: Mapping[str, bytes]) -> None:
        make_folder(target.parent)
        self._sweep(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=target.parent))
        try:
            file = heads.save(partial / HEADS_FILE)
            content = file.read_bytes()
            write_twice(file, content)
            for kind, more in files.items():
                write_twice(partial / kind, more)
            known = {
                **facts,
                "made_at": time.time(),
                "checkpoint": heads.checkpoint,
                "sha256": _digest(content),
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
            return read_either(path, parse_pointer)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            is_shut = isinstance(error, PermissionError)
            raise RegistryError(f"a readable {path}", str(error), RIGHTS if is_shut else REMEDY) from error

    def _project(self, project: int) -> Path:
        return self.folder / str(int(project))

    def _versions(self, project: int) -> Path:
        return self._project(project) / "versions"

    def _folder_of(self, project: int, version: str) -> Path:
        if not VERSION_NAME.fullmatch(version):
            raise RegistryError("a version's name", repr(version[:80]), "see `usam-backend versions`")
        return self._versions(project) / version

    @contextmanager
    def _lock(self, project: int) -> Iterator[None]:
        folder = self._project(project)
        make_folder(folder)
        with open_lock(folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _unreadable(folder: Path, error: OSError) -> RegistryError:
    return RegistryError(f"a readable {folder}", error.strerror or str(error), RIGHTS)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
