"""The file behind the inbox: an event is in it before Label Studio gets its answer, until the store has it.

A line of JSON an event, and of an event only what the store keeps: payloads carry an invite token and passwords. What
was written outlives the death of this process, whatever kills it; it is not forced to the disk, since after a power
cut the timer's sync finds everything again.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

PATTERN = "events-*.jsonl"


@dataclass(frozen=True)
class EventNote:
    """What is kept of an event: its action, and the ids of the annotations or tasks it is about."""

    project: int
    action: str
    subjects: tuple[int, ...] = ()


class Journal:
    """An append-only file of its own in `folder`, with what journals of processes that died left there.

    Safe to share between threads. Two processes may use one folder: each has a locked file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._path = folder / f"events-{uuid.uuid4().hex}.jsonl"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
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
            with path.open("rb") as old:
                try:
                    fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process lives
                notes = [note for line in old if (note := _note(line)) is not None]
                if notes:
                    self._write(b"".join(map(_line, notes)))
                path.unlink(missing_ok=True)
            found += notes
        return found


def _line(note: EventNote) -> bytes:
    return json.dumps(asdict(note), separators=(",", ":")).encode() + b"\n"


def _note(line: bytes) -> EventNote | None:
    """None for a line that was cut off."""
    try:
        found = json.loads(line)
        return EventNote(int(found["project"]), str(found["action"]), tuple(int(one) for one in found["subjects"]))
    except (ValueError, KeyError, TypeError):
        return None
