"""A project's plan, kept beside its versions so that a page can show it at once: making one takes minutes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from backend.learning.label_plan import ProjectPlan
from usam.files import plain, write_whole

STEPS = (50, 100, 200)
CURVE_POINTS = 25
FOLDER = "plans"


@dataclass(frozen=True)
class CurvePoint:
    """Quality in 0..1 after, or gained by, so many labels, with its 90 % interval."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class KeptPlan:
    """What more labels are expected to bring, as it was when it was made (`made_at`, seconds since 1970).

    `measured` are (labels, quality) pairs, by `method`; `curve` what was fitted to them, from no label to 200 more than
    `labels`; `gains` what the next 50, 100 and 200 bring; `suggestion` and `promise` are sentences for people.
    """

    made_at: float
    labels: int
    tasks: int
    method: str
    measured: tuple[tuple[int, float], ...]
    curve: tuple[CurvePoint, ...]
    gains: tuple[CurvePoint, ...]
    suggestion: str
    promise: str

    @classmethod
    def of(cls, planned: ProjectPlan) -> KeptPlan:
        """From what was planned just now."""
        fitted, gains = planned.plan.curve, []
        for more in STEPS:
            gain = fitted.gain(more)
            gains.append(CurvePoint(more, gain.value, gain.low, gain.high))
        last, curve = fitted.labels + STEPS[-1], []
        for number in range(CURVE_POINTS):
            labels = round(number * last / (CURVE_POINTS - 1))
            quality = fitted.quality(labels)
            curve.append(CurvePoint(labels, quality.value, quality.low, quality.high))
        measured = tuple((int(count), float(value)) for count, value in planned.history)
        suggestion, promise = fitted.suggestion(), planned.plan.promise
        return cls(
            time.time(),
            fitted.labels,
            planned.tasks,
            planned.method,
            measured,
            tuple(curve),
            tuple(gains),
            suggestion,
            promise,
        )

    @classmethod
    def parse(cls, content: bytes) -> KeptPlan:
        """From a file. Raises `ValueError`."""
        plan = TypeAdapter(cls).validate_json(content)
        if not plan.curve:
            raise ValueError("no curve")
        return plan


class KeptPlans:
    """The plans of all projects, one file each in `folder`."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER

    def put(self, project: int, plan: KeptPlan) -> None:
        """Keep a plan in place of the one before."""
        write_whole(self._path(project), json.dumps(asdict(plan)).encode())

    def get(self, project: int) -> KeptPlan | None:
        """The plan that was made last; None where there is none that can be read."""
        try:
            return KeptPlan.parse(plain(self._path(project)).read_bytes())
        except (OSError, ValueError):
            return None

    def _path(self, project: int) -> Path:
        return self.folder / f"{project}.json"
