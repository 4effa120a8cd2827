"""What the pool's actions did, as the last ranking's record says it: for people, and for Prometheus as gauges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backend.errors import StoreError
from backend.store.records import Run

ACTIONS: Mapping[str, str] = {
    "larger": "larger model",
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


class PoolRuns(Protocol):
    """What knows the projects and their runs."""

    def projects(self) -> list[int]: ...

    def runs(self, project: int | None = None, job: str | None = None, limit: int = 20) -> Sequence[Run]: ...


def last_acting(runs: Iterable[Run]) -> dict[str, Any]:
    """What the newest ranking that acted said of its actions; `runs` the newest first."""
    return next((dict(found) for run in runs if (found := run.details.get("acting"))), {})


def lines_of(acting: Mapping[str, Any]) -> list[str]:
    """One line an action, for people."""
    return [_line(name, acting[action]) for action, name in ACTIONS.items() if action in acting]


def _line(name: str, figures: Mapping[str, Any]) -> str:
    total = figures.get("total", {})
    said = [
        f"{name}: {total.get('acted', 0)} of {figures.get('considered', 0)} objects, {total.get('seconds', 0):.1f} s",
        f"budget {figures.get('budget', 0):.0%}, used {figures.get('share_of_cost', 0):.0%}",
    ]
    if name != ACTIONS["alternatives"]:
        said.append(f"{total.get('kept', 0)} kept, predicted IoU {total.get('predicted_gain', 0):+.3f}")
    if gain := figures.get("true_gain"):
        interval = f"[{gain['low']:+.3f}, {gain['high']:+.3f}]" if "low" in gain else ""
        said.append(f"true IoU {gain.get('value', 0):+.3f} {interval} on {gain.get('objects', 0)} labelled objects")
    if figures.get("suspended"):
        said.append("suspended: it loses here")
    return ", ".join(said)


class PoolActions(Collector):
    """Gauges `usam_pool_action_*` by project and action, read from the store when somebody asks."""

    def __init__(self, store: PoolRuns) -> None:
        self._store = store

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is asked of the store before the first scrape."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a figure. A store that does not answer gives none."""
        families = {
            name: GaugeMetricFamily(f"usam_pool_action_{name}", told, labels=["project", "action"])
            for name, told in _FIGURES.items()
        }
        try:
            for project in self._store.projects():
                for action, figures in last_acting(self._store.runs(project, "score_pool", limit=50)).items():
                    values = {**figures, **figures.get("total", {})}
                    values["true_gain"] = figures.get("true_gain", {}).get("value")
                    for name, family in families.items():
                        if isinstance(values.get(name), int | float):
                            family.add_metric([str(project), action], float(values[name]))
        except StoreError:
            return
        yield from families.values()
