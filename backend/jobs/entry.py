"""Where the queue enters: one job by name, with everything opened for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backend.errors import JobError, LabelStudioError
from backend.queue import JOB_NAMES
from backend.resources import Resources
from backend.settings import Settings

_log = logging.getLogger(__name__)


def perform(job: str, project: int) -> None:
    """Run `job` for `project` with the settings of the environment. What goes wrong is in the store's run record.

    Raises whatever the job raises, so that the queue tries it again.
    """
    with Resources.open(Settings.from_environment()) as resources:
        resources.on_progress = _tell_queue
        run_job(resources, job, project)


def run_job(resources: Resources, job: str, project: int) -> None:
    """Run a job in this process, alone of its kind for this project unless it is `score_shard`; nothing where the
    project is not connected.

    Raises `JobBusy`, and whatever the job raises.
    """
    if job in JOB_NAMES and project not in resources.store.projects():
        _log.warning("%s of project %s is passed over: it is not connected", job, project)
        return
    if job == "sync":
        from backend.jobs.score_pool import tidy
        from backend.jobs.sync import run as sync

        with resources.lease(f"sync-{project}"):
            sync(resources, project)
        with suppress(LabelStudioError):  # the next one goes on with it
            tidy(resources, project)
    elif job == "score_pool":
        from backend.jobs.score_pool import run as score_pool
        from backend.jobs.score_pool import tidy

        with resources.lease(f"score_pool-{project}"):
            score_pool(resources, project)
        tidy(resources, project)
    elif job == "score_shard":
        from backend.jobs.score_shard import run as score_shard

        score_shard(resources, project)
    elif job == "retrain":
        from backend.jobs.retrain import run as retrain

        with resources.lease(f"retrain-{project}"):
            retrain(resources, project)
    elif job == "pseudo_label":
        from backend.jobs.acceptance import run as accept_or_watch

        with resources.lease(f"pseudo_label-{project}"):
            accept_or_watch(resources, project)
    elif job == "plan":
        from backend.jobs.plan import run as plan

        with resources.lease(f"plan-{project}"):
            plan(resources, project)
    elif job == "track":
        from backend.jobs.track import run as track

        with resources.lease(f"track-{project}"):
            track(resources, project)
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
