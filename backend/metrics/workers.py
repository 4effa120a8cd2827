"""What the workers do, for Prometheus: read from the store whenever somebody asks; workers are other processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import sqlalchemy as sql
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.errors import StoreError

if TYPE_CHECKING:
    from backend.store import Store

STATES = ("running", "done", "rejected", "skipped", "failed", "interrupted")
JOBS = ("sync", "retrain", "score_pool", "pseudo_label")


class Progress(Collector):
    """The newest run of each job of each project, and how far people's labels have been learnt from."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def text(self) -> bytes:
        """The exposition format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the store when this is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges; none where the store does not answer."""
        labels = ["project", "job"]
        state = GaugeMetricFamily("usam_job_state", "1 for the state of a job's newest run.", labels=[*labels, "state"])
        share = GaugeMetricFamily("usam_job_progress", "Share of a job's newest run that is done, 0..1.", labels=labels)
        seconds = GaugeMetricFamily("usam_job_seconds", "Seconds that a job's newest run has taken.", labels=labels)
        tasks = GaugeMetricFamily("usam_tasks", "Tasks of a project.", labels=["project", "labelled"])
        new = GaugeMetricFamily("usam_new_labels", "Labels that no retraining has seen.", labels=["project"])
        try:
            for project in self._store.projects():
                name = str(project)
                counts = self._store.counts(project)
                tasks.add_metric([name, "no"], counts.unlabelled)
                tasks.add_metric([name, "yes"], counts.tasks - counts.unlabelled)
                new.add_metric([name], self._store.new_labels(project))
                for job in JOBS:
                    run = self._store.last_run(project, job)
                    if run is None:
                        continue
                    for one in STATES:
                        state.add_metric([name, job, one], float(run.state == one))
                    ended = run.finished_at is not None
                    share.add_metric([name, job], 1.0 if ended else run.done / run.total if run.total else 0.0)
                    seconds.add_metric([name, job], (run.finished_at or time.time()) - run.started_at)
        except (StoreError, sql.exc.SQLAlchemyError):
            return
        yield from (state, share, seconds, tasks, new)
