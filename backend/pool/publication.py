"""Writing a ranking into Label Studio so that a reader never sees a gap, and checking that it is what is served.

Order: import the new version, make it the project's, delete the old ones. Label Studio serves the lowest score
among predictions of the project's version, and a random task, silently, where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import JobError, LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.pool.policy import ranking_run
from backend.pool.revision import Revision
from backend.store.records import ScoreRow

AT_ONCE = 50
"""So many predictions Label Studio deletes in one go in less than half a second."""
PAUSE = 0.1
"""Between two deletions, as a share of what one took: each is a tenth of a second, so that others get their turn."""


@dataclass(frozen=True)
class Publication:
    """What was written, and how long it took, in seconds. `version` is the one that is now the project's; `rows`
    are those written, which lack the tasks that were deleted meanwhile."""

    version: str
    rows: list[ScoreRow]
    write_s: float
    switch_s: float


def write(
    client: LabelStudio,
    project: int,
    rows: Iterable[ScoreRow],
    prediction_of: Callable[[ScoreRow], Mapping[str, Any]],
    version: str,
) -> Publication:
    """Import all rows under `version` and make it the project's.

    One task deleted in the meantime makes Label Studio refuse the import: then the rest is written under
    another name. `prediction_of` gives each row's `task`, `result` and `score`. Raises `LabelStudioError`, and
    `JobError` where there is nothing left to write.
    """
    todo = list(rows)
    for attempt in range(3):
        name = version if attempt == 0 else f"{version}-{attempt}"
        started = time.perf_counter()
        try:
            written = client.import_predictions(
                project, ({**prediction_of(row), "model_version": name} for row in todo)
            )
        except LabelStudioError as error:
            if error.status != 400 or attempt == 2:
                raise
            present = {task.id for task in client.tasks(project)}
            todo = [row for row in todo if row.task in present]
            continue
        if not written:
            raise JobError("tasks to rank", "none left", "import some")
        imported = time.perf_counter()
        client.set_model_version(project, name)
        return Publication(name, todo, imported - started, time.perf_counter() - imported)
    raise AssertionError("unreachable")


def revise(
    client: LabelStudio,
    project: int,
    change: Revision,
    prediction_of: Callable[[ScoreRow], Mapping[str, Any]],
    version: str,
) -> Publication:
    """Write what differs into the version that is served: each task has the old or the new place at any time. A run
    that is killed meanwhile is no longer the last that was done, so that the next one writes all anew.

    Raises `LabelStudioError`, with status 400 or 404 where a task, or a prediction, was deleted meanwhile, with 500
    where Label Studio cannot tell the predictions of one.
    """
    started = time.perf_counter()
    tasks = [row.task for row in change.written]
    stored: dict[int, list[int]] = {}
    for one in client.predictions(project, tasks):
        if one.model_version == version:
            stored.setdefault(one.task, []).append(one.id)
    missing: list[ScoreRow] = []
    for row in change.written:
        if row.task not in stored:
            missing.append(row)
            continue
        first, *others = stored[row.task]
        told = prediction_of(row)
        client.update_prediction(first, score=told["score"], result=told["result"])
        for other in others:  # another reading of the task as it was
            client.delete_prediction(other)
    client.import_predictions(project, ({**prediction_of(row), "model_version": version} for row in missing))
    return Publication(version, change.rows, time.perf_counter() - started, 0.0)


def delete_before(
    client: LabelStudio, project: int, served: str, go_on: Callable[[], bool] = lambda: True
) -> list[str]:
    """Delete every version that a ranking before `served` wrote, also what a killed run left. Other models' stay, and
    so does what a later ranking is writing. Returns the names of those that are gone; `go_on` as in `delete_gently`."""
    newest = ranking_run(served)
    before: dict[str, int] = {}
    for name, count in client.model_versions(project).items():
        run = ranking_run(name)
        if name != served and run is not None and (newest is None or run <= newest):
            before[name] = count
    return delete_gently(client, project, before, go_on)


def delete_gently(
    client: LabelStudio, project: int, versions: Mapping[str, int], go_on: Callable[[], bool] = lambda: True
) -> list[str]:
    """Delete whole versions, given with how many predictions each has, so that nobody has to wait for it. Returns the
    names of those that are gone.

    Label Studio knows no deletion of a part of a version. A whole one goes in one transaction: 5 ms each prediction, in
    which nobody can submit. So all but the last `AT_ONCE` go one by one, which costs Label Studio many times as
    much and keeps a *Submit* waiting for one of them at most. *Delete predictions* of selected tasks is as cheap as a
    version, but takes whatever another model has just written on them, and overwriting costs as much as deleting.
    After each prediction `go_on` is asked; what is left when it says no goes the next time.
    """
    gone: list[str] = []
    for name, count in versions.items():
        if not _shrink(client, project, name, count, go_on):
            break
        client.delete_version(project, name)
        gone.append(name)
    return gone


def _shrink(client: LabelStudio, project: int, version: str, count: int, go_on: Callable[[], bool]) -> bool:
    """Delete predictions one by one until `AT_ONCE` are left; False where it was told to stop before."""
    page = 1
    while count > AT_ONCE:
        try:
            found = client.of_version(project, version, page)
        except LabelStudioError as error:
            if error.status != 500:
                raise
            found = None  # it cannot tell one of their tasks
        if found is None:  # no task has them: then there is no other way
            return True
        for prediction in found[: count - AT_ONCE]:
            started = time.perf_counter()
            client.delete_prediction(prediction)
            time.sleep(PAUSE * min(time.perf_counter() - started, 1.0))
            if not go_on():
                return False
        count -= len(found)
        page += not found
        if not found and not go_on():
            return False
    return True


def verify(client: LabelStudio, project: int, version: str, first: int, *, take_lock: bool = False) -> str:
    """Why the next task is not the one ranked first; empty where it is.

    It is read through the Data Manager's order, which is that of uncertainty sampling. With `take_lock` Label
    Studio is also asked for this account's next task, which locks it for this account: for tests and for an account
    that annotates itself.
    """
    known = client.project(project)
    if known.model_version != version:
        return f"the project's version is {known.model_version!r}, not {version!r}"
    found = client.first_by_score(project, 1)
    if not found or found[0][0] != first:
        return f"task {found[0][0] if found else 'none'} has the lowest score, not task {first}"
    if known.sampling != UNCERTAINTY_SAMPLING:
        return f"the project's sampling is {known.sampling!r}: run `usam-backend connect --project {project}`"
    if known.maximum_annotations > 1:
        return "tasks that somebody has annotated come first, because the project wants several annotations of each"
    if not take_lock:
        return ""
    served = client.next_task(project)
    if served is None or served.id != first:
        held = " (a task this account holds since before)" if served is not None and served.locked else ""
        return f"Label Studio serves task {served.id if served else 'none'}{held}, not task {first}"
    return ""
