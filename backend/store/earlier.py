"""A project of another Label Studio under a number that was known: nothing of the earlier one may speak for it.

Label Studio counts from 1 again when its database is made anew. What was learnt of the earlier project, what was
accepted by its promises, its plan and its list for review then lie in `<data_dir>/earlier/<project>-<time>/`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from backend.errors import JobError, StoreError
from backend.store.kept_twice import make_folder

if TYPE_CHECKING:
    from backend.label_studio.records import Project
    from backend.settings import Settings
    from backend.store import Store

FOLDER = "earlier"
KEPT = ("heads", "pseudo_labels", "plans", "reviews")
"""Folders with a folder or a file of each project."""


def join(store: Store, settings: Settings, project: Project) -> None:
    """Note that a project is ours to look after, without what an earlier one under its number left. Raises `StoreError`
    where that cannot be set aside."""
    if store.is_another(project.id, project.stamp):
        _set_aside(settings, project.id)
    store.join(project.id, project.stamp)


def check_same(store: Store, settings: Settings, project: Project, job: str) -> None:
    """Raise `JobError` where this is not the project that was connected: nobody has asked for anything in it. What is
    known of the earlier one is set aside then, and it is not looked after any more; that is all its records say, as the
    reason why `job` failed."""
    is_another = store.is_another(project.id, project.stamp)
    if is_another:
        _set_aside(settings, project.id)
        store.leave(project.id)
    store.take_stamp(project.id, project.stamp)
    if is_another:
        error = JobError(
            "the project that was connected",
            f"another one under its number, made on {project.stamp[:19]}",
            f"connect it: usam-backend connect --project {project.id}",
        )
        store.finish_run(store.start_run(project.id, job), "failed", str(error))
        raise error


def _set_aside(settings: Settings, project: int) -> None:
    target = settings.data_dir / FOLDER / f"{project}-{time.time_ns()}"
    try:
        for name in KEPT:
            for left in (str(project), f"{project}.json"):
                path = settings.data_dir / name / left
                if path.exists():
                    make_folder(target / name)
                    os.replace(path, target / name / left)
    except OSError as error:
        raise StoreError(f"room and rights to write {target}", str(error), "free space or correct them") from error
