"""What the page knows of others: titles and configurations from Label Studio, whether it and Redis answer.

Looked at in a thread of its own, when somebody reads the page and the last look is old, so that no page waits for
another server.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from backend.errors import LabelStudioError, LabelStudioUnreachable, QueueError, TokenError
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Project
from backend.queue import JobQueue
from backend.settings import Settings

LOOK_EVERY_S = 10.0
TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Something that needs a person: what it is, what to do, and where to look."""

    text: str
    remedy: str = ""
    link: str = ""
    link_text: str = ""


@dataclass(frozen=True)
class Seen:
    """What the last look found. `projects` are those of Label Studio that its token sees, None before it answered."""

    projects: Mapping[int, Project] | None = None
    notices: tuple[Notice, ...] = ()


def label_studio_of(settings: Settings) -> Callable[[], AbstractContextManager[LabelStudio]] | None:
    """How to open the settings' Label Studio; None where they name none."""
    token = settings.label_studio_api_key.get_secret_value()
    if not settings.label_studio_url or not token:
        return None
    return lambda: LabelStudio(settings.label_studio_url, token, timeout=TIMEOUT_S)


@dataclass
class Surroundings:
    """The last look at Label Studio and Redis. Safe to share between threads; `seen` never waits.

    `open_label_studio` and `queue` are None where there is none to look at.
    """

    open_label_studio: Callable[[], AbstractContextManager[LabelStudio]] | None
    queue: JobQueue | None
    _seen: Seen = field(default_factory=Seen)
    _looked_at: float = float("-inf")
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def seen(self) -> Seen:
        """What is known now; a new look begins where the last one is old."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S and not self._looking.locked():
            threading.Thread(target=self.look, name="surroundings", daemon=True).start()
        return self._seen

    def look(self) -> Seen:
        """Look now. While another thread looks, what was known before."""
        if not self._looking.acquire(blocking=False):
            return self._seen
        try:
            projects, troubles = self._seen.projects, []
            try:
                troubles += self._redis()
                if self.open_label_studio is not None:
                    with self.open_label_studio() as client:
                        projects = {project.id: project for project in client.projects()}
            except LabelStudioError as error:
                troubles.append(notice_of(error))
            except Exception as error:  # the page goes on without
                _log.warning("could not look around: %s", type(error).__name__)
            self._seen = Seen(projects, tuple(troubles))
            self._looked_at = time.monotonic()
            return self._seen
        finally:
            self._looking.release()

    def _redis(self) -> list[Notice]:
        if self.queue is None:
            return []
        try:
            if self.queue.answers():
                if self.queue.workers():
                    return []
                return [
                    Notice(
                        "No worker runs: labels are taken, but nothing is trained or ranked.",
                        "Start one with `usam-backend worker`.",
                    )
                ]
        except QueueError as error:
            _log.info("Redis was lost between two questions: %s", error)
        return [
            Notice(
                "Redis does not answer: trainings and rankings wait. No label is lost.",
                "Start Redis again, or correct REDIS_URL and restart the service.",
            )
        ]


def notice_of(error: LabelStudioError) -> Notice:
    """What to do about a Label Studio that does not answer as it should.

    >>> notice_of(TokenError("success", "HTTP 401", "set a token")).text
    'Label Studio refuses the token: labels are not fetched and tasks are not ranked.'
    """
    if isinstance(error, TokenError):
        return Notice(
            "Label Studio refuses the token: labels are not fetched and tasks are not ranked.",
            "In Label Studio, open Account & Settings, make a new access token, set LABEL_STUDIO_API_KEY to it, and "
            f"restart service and workers. ({error.got})",
        )
    if isinstance(error, LabelStudioUnreachable):
        return Notice(
            "Label Studio does not answer: labels given meanwhile are fetched when it is back.",
            f"Check that it runs and that LABEL_STUDIO_URL is right. ({error.got})",
        )
    return Notice(f"Label Studio answers otherwise than expected: {error.got}.", error.remedy)
