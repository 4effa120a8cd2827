"""Whether a project is gone from Label Studio: a proxy's page, a restart or a lost right looks the same for a while.

A project counts as gone when Label Studio itself says so in two ways, its own address and the list of projects, and
keeps to it for days. Until then nothing of it is dropped, and it is asked for again.
"""

from __future__ import annotations

import json
import logging
import time
from itertools import pairwise
from pathlib import Path

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from usam.files import plain, replace_text

KEPT_S = 3 * 24 * 3600.0
"""How long everything of a project that is not there any more is kept."""
LONGEST_GAP_S = KEPT_S / 2
"""What the time between two looks counts at most: a clock that jumped, or a machine that was off, makes no days."""
APART_S = 3600.0
"""Looks nearer to each other than this are one."""
MOST_LOOKS = 100
_log = logging.getLogger(__name__)


def is_missing(client: LabelStudio, project_id: int, error: LabelStudioError) -> bool:
    """Whether Label Studio itself has no such project by `error`, got when asking for it, and by its list.

    Raises `LabelStudioError` where the list cannot be had.
    """
    return error.status == 404 and error.is_from_label_studio and all(p.id != project_id for p in client.projects())


class Absences:
    """Since when projects have been missing, kept in a file. Its callers hold the project's lease. What cannot be
    written is said in the log: nothing is forgotten for it, and no project waits for it.

    >>> absences = Absences(data_dir / "absent")
    >>> absences.note(7)      # missing: not to be forgotten yet
    False
    >>> absences.clear(7)     # there again
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, project_id: int, now: float | None = None) -> bool:
        """Note that a project is missing at `now` (UTC seconds). True where it has been for so long that it may be
        forgotten."""
        now = time.time() if now is None else now
        looks = self._looks(project_id)
        if not looks or abs(now - looks[-1]) >= APART_S:
            looks.append(now)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                replace_text(self._file(project_id), json.dumps(looks[-MOST_LOOKS:]))
            except OSError as error:
                _log.warning("that project %s is missing was not noted: %s", project_id, error)
                return False
        gaps = [later - look for look, later in pairwise(looks)]
        return sum(min(max(gap, 0.0), LONGEST_GAP_S) for gap in gaps) >= KEPT_S

    def clear(self, project_id: int) -> None:
        """Note that a project is there."""
        try:
            self._file(project_id).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("that project %s is there was not noted: %s", project_id, error)

    def _looks(self, project_id: int) -> list[float]:
        """Times of earlier looks; none where the file cannot be read, so that the days begin again."""
        try:
            return [float(look) for look in json.loads(plain(self._file(project_id)).read_text())]
        except (OSError, ValueError, TypeError, ArithmeticError, RecursionError):
            return []

    def _file(self, project_id: int) -> Path:
        return self._folder / f"{project_id}.json"
