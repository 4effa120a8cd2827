"""What the workers do and did: read from the store whenever somebody asks; workers are other processes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.store.database import STORE_ERRORS
from backend.store.records import RefinementState

if TYPE_CHECKING:
    from backend.store import Store

STATES = ("running", "done", "rejected", "skipped", "failed", "interrupted")
JOBS = ("sync", "retrain", "score_pool", "pseudo_label", "plan")
ACTIONS: Mapping[str, str] = {
    "larger": "larger model",
    "points": "more points",
    "alternatives": "alternatives",
}
_FIGURES: Mapping[str, str] = {
    "acted": "Objects of the pool acted on.",
    "kept": "Objects of the pool whose new mask was kept.",
    "seconds": "Seconds that acting on the pool took.",
    "predicted_gain": "Mean predicted IoU gained by the masks kept.",
    "true_gain": "Mean true IoU gained where people have labelled since.",
    "share_of_cost": "Share of the whole cost that the budget allows now.",
}


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
        except STORE_ERRORS:
            return
        yield from (state, share, seconds, tasks, new)


class PoolActions(Collector):
    """Gauges `usam_pool_action_*` by project and action."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is asked of the store before the first scrape."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a figure. A store that does not answer gives none."""
        families = {
            name: GaugeMetricFamily(f"usam_pool_action_{name}", meaning, labels=["project", "action"])
            for name, meaning in _FIGURES.items()
        }
        try:
            for project in self._store.projects():
                for action, state in self._store.refinements(project).items():
                    for name, family in families.items():
                        value = getattr(state, "gain_value" if name == "true_gain" else name)
                        if not math.isnan(value):
                            family.add_metric([str(project), action], float(value))
        except STORE_ERRORS:
            return
        yield from families.values()


def refinement_lines(states: Mapping[str, RefinementState]) -> list[str]:
    """One line an action, for people."""
    return [_line(name, states[action]) for action, name in ACTIONS.items() if action in states]


def _line(name: str, state: RefinementState) -> str:
    parts = [
        f"{name}: {state.acted} of {state.considered} objects, {state.seconds:.1f} s",
        f"budget {state.budget:.0%}, used {state.share_of_cost:.0%}",
    ]
    if name != ACTIONS["alternatives"]:
        parts.append(f"{state.kept} kept, predicted IoU {state.predicted_gain:+.3f}")
    if state.gain_objects:
        interval = f"[{state.gain_low:+.3f}, {state.gain_high:+.3f}]" if not math.isnan(state.gain_low) else ""
        parts.append(f"true IoU {state.gain_value:+.3f} {interval} on {state.gain_objects} labelled objects")
    if state.suspended:
        parts.append("suspended: it loses here")
    return ", ".join(parts)
