"""The file behind the inbox: an event is in it before Label Studio gets its answer, until the store has it.

A line of JSON an event, and of an event only what the store keeps: payloads carry an invite token and passwords. What
was written outlives the death of this process, whatever kills it; it is not forced to the disk, since after a power
cut the timer's sync finds everything again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.label_studio.records import MAX_ID, is_text
from usam.files import plain

PATTERN = "events-*.jsonl"
ASIDE = "set-aside.jsonl"
"""What no store can hold, each with the reason."""
ASIDE_BYTES = 4 * 2**20
"""Size from which nothing is added to it: whoever sends nonsense does not fill the disk."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventNote:
    """What is kept of an event: its action, and the ids of the annotations or tasks it is about."""

    project: int
    action: str
    subjects: tuple[int, ...] = ()

    def fault(self) -> str:
        """Why no store can hold it; empty where one can."""
        if not 0 < self.project <= MAX_ID:
            return f"a project's number is 1 to {MAX_ID}"
        if not all(0 <= number <= MAX_ID for number in self.subjects):
            return f"ids are 0 to {MAX_ID}"
        if not is_text(self.action):
            return "the action holds signs that are no text"
        return ""


class Journal:
    """An append-only file of its own in `folder`, with what journals of processes that died left there.

    Safe to share between threads. Two processes may use one folder: each has a locked file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._folder = folder
        self._path, self._file = self._begin()
        self._size = 0
        self.left_over = self._adopt(folder)
        """Events of earlier processes that no store has yet."""

    def append(self, note: EventNote) -> None:
        """Write one event. Raises `OSError` where the disk does not take it."""
        self._write(_line(note))

    def clear(self, size: int) -> None:
        """Forget everything, if nothing came after the first `size` bytes."""
        with self._lock:
            if self._size == size:
                os.ftruncate(self._file, 0)
                self._size = 0

    def keep(self, notes: Iterable[EventNote]) -> None:
        """Hold these and no others. A process that dies meanwhile leaves the old ones, the new ones, or both."""
        data = b"".join(map(_line, notes))
        with self._lock:
            path, file = self._begin()
            try:
                if os.write(file, data) != len(data):
                    raise OSError("the disk is full")
            except OSError:
                os.close(file)
                path.unlink()
                raise
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._path, self._file, self._size = path, file, len(data)

    def set_aside(self, note: EventNote, reason: str) -> None:
        """Write down an event that no store can hold, for a person to read. Raises `OSError`."""
        line = json.dumps({**asdict(note), "reason": reason[:300], "at": round(time.time())}).encode() + b"\n"
        file = os.open(plain(self._folder / ASIDE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(file).st_size + len(line) <= ASIDE_BYTES:
                os.write(file, line)
        finally:
            os.close(file)

    @property
    def size(self) -> int:
        """Bytes in it."""
        with self._lock:
            return self._size

    def close(self) -> None:
        """Let go of the file, and remove it where it is empty."""
        with self._lock:
            if self._size == 0:
                self._path.unlink(missing_ok=True)
            os.close(self._file)

    def _begin(self) -> tuple[Path, int]:
        """A file of its own, locked before another process can see it as one that was left."""
        path = self._folder / f"events-{uuid.uuid4().hex}.jsonl"
        hidden = path.with_suffix(".new")
        file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(path)
        return path, file

    def _write(self, data: bytes) -> None:
        with self._lock:
            written = os.write(self._file, data)
            if written != len(data):  # a full disk: half a line must not spoil the next one
                os.ftruncate(self._file, self._size)
                raise OSError(f"{written} of {len(data)} bytes were written")
            self._size += written

    def _adopt(self, folder: Path) -> list[EventNote]:
        found: list[EventNote] = []
        for path in sorted(folder.glob(PATTERN)):
            if path == self._path:
                continue
            try:
                found += self._adopt_one(path)
            except OSError as error:
                log.warning("the events in %s are passed over: %s", path, error)
        return found

    def _adopt_one(self, path: Path) -> list[EventNote]:
        with plain(path).open("rb") as old:
            try:
                fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return []  # its process lives
            notes = [note for line in old if (note := _note(line)) is not None]
            if notes:
                self._write(b"".join(map(_line, notes)))
            path.unlink(missing_ok=True)
        return notes


def _line(note: EventNote) -> bytes:
    return json.dumps(asdict(note), separators=(",", ":")).encode() + b"\n"


def _note(line: bytes) -> EventNote | None:
    """None for a line that was cut off."""
    try:
        found = json.loads(line)
        return EventNote(int(found["project"]), str(found["action"]), tuple(int(one) for one in found["subjects"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
