"""Where the queue enters: one job by name, with everything opened for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from backend.errors import JobError
from backend.queue import JOB_NAMES
from backend.resources import Context
from backend.settings import Settings

_log = logging.getLogger(__name__)


def perform(job: str, project: int) -> None:
    """Run `job` for `project` with the settings of the environment. What goes wrong is in the store's run record.

    Raises whatever the job raises, so that the queue tries it again.
    """
    with Context.open(Settings.from_environment()) as context:
        context.say = _tell_queue
        run_job(context, job, project)


def run_job(context: Context, job: str, project: int) -> None:
    """Run a job in this process, alone of its kind for this project. Raises `JobBusy`, and whatever the job raises."""
    if job == "sync":
        from backend.jobs.sync import run as sync

        with context.lease(f"sync-{project}"):
            sync(context, project)
    elif job == "score_pool":
        from backend.jobs.score_pool import run as score_pool

        with context.lease(f"score_pool-{project}"):
            score_pool(context, project)
    elif job == "retrain":
        from backend.jobs.retrain import run as retrain

        with context.lease(f"retrain-{project}"):
            retrain(context, project)
    elif job == "pseudo_label":
        from backend.jobs.pseudo_label import watch_in_background

        with context.lease(f"pseudo_label-{project}"):
            watch_in_background(context, project)
    else:
        raise JobError(f"a job out of {', '.join(JOB_NAMES)}", repr(job), "choose one of these")


def _tell_queue(progress: Mapping[str, Any]) -> None:
    """Progress as RQ shows it. Losing it harms nothing: the store has it too."""
    import redis
    from rq import get_current_job

    try:
        current = get_current_job()
        if current is not None:
            current.meta.update(progress)
            current.save_meta()  # type: ignore[no-untyped-call]
    except redis.RedisError as error:
        _log.info("progress not told: %s", type(error).__name__)
