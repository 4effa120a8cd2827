"""Starts again what dies, with growing pauses and a word each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from backend.errors import reason_of
from backend.local.processes import ServerProcess

LOOK_EVERY_S = 1.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
STEADY_S = 60.0
"""A part that lived this long is started again without a pause."""


class Part(Protocol):
    """Something that runs as one process and can be started again."""

    @property
    def process(self) -> ServerProcess | None:
        """The process that is looked at."""
        ...

    def restart(self) -> None:
        """Start it where it was. Raises `BackendError`."""
        ...


@dataclass
class _Watch:
    part: Part
    started_at: float
    deaths: int = 0
    retry_at: float = 0.0
    mourned: bool = False
    """Whether its end was said already."""


class Supervisor:
    """Looks after parts in a thread of its own. Ends none: `stop` only ends the looking."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._watches: dict[str, _Watch] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str, part: Part) -> None:
        """Look after a part that was started."""
        self._watches[name] = _Watch(part, self._clock())

    def begin(self, after: Callable[[], None] = lambda: None) -> None:
        """Look around every second, in a thread; `after` is called where something was started again, and once more
        where it failed."""

        def loop() -> None:
            is_noted, said = True, ""
            while not self._stopping.wait(LOOK_EVERY_S):
                try:
                    is_noted = not self.look() and is_noted
                    if not is_noted:
                        after()
                        is_noted, said = True, ""
                except Exception as error:  # such as a full disk: whoever looks after all must not end of it
                    if said != (said := reason_of(error)):
                        self._say(f"looking after what runs: {said}")

        self._thread = threading.Thread(target=loop, name="usam-supervisor", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(patience)

    def look(self) -> list[str]:
        """One round: start again what died and whose pause is over. Returns their names."""
        started = []
        for name, watch in self._watches.items():
            process = watch.part.process
            if process is None or process.running or self._stopping.is_set():
                continue
            if not watch.mourned:
                self._mourn(name, watch, process)
            if self._clock() < watch.retry_at:
                continue
            try:
                watch.part.restart()
            except Exception as error:
                self._pause(watch)
                self._say(
                    f"{name} did not come up: {reason_of(error)}; tried again in {watch.retry_at - self._clock():.0f} s"
                )
                continue
            watch.started_at, watch.mourned = self._clock(), False
            self._say(f"{name} runs again")
            started.append(name)
        return started

    def _mourn(self, name: str, watch: _Watch, process: ServerProcess) -> None:
        if self._clock() - watch.started_at >= STEADY_S:
            watch.deaths = 0
        self._pause(watch)
        watch.mourned = True
        pause = watch.retry_at - self._clock()
        self._say(f"{name} ended ({process.ending}); started again in {pause:.0f} s, log {process.log}")

    def _pause(self, watch: _Watch) -> None:
        watch.retry_at = self._clock() + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**watch.deaths)
        watch.deaths += 1
