"""The learning page: what labels have brought, what more would bring, and what each version left people to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.learning.kept_plan import KeptPlan
from backend.learning.work import Saving
from backend.web.dashboard.versions import WorkLine, known

CLASSES_SHOWN = 60
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 260, 44, 36
"""Size of the curve's picture and of its edges for numbers, in its own units."""
LEAST_SPAN = 0.04
"""Smallest span of quality that a picture shows, so that noise does not look like learning."""


@dataclass(frozen=True)
class ClassLine:
    """One label of the project: how many objects people gave it, and by objects of images that were left out, how much
    of what is called so is so, and how much of what is so is called so (0..1); None where nobody can tell."""

    name: str
    labels: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Bar:
    """One part of a bar of a hundred objects: what became of them, from where to where, 0..100."""

    kind: str
    start: float
    width: float


@dataclass(frozen=True)
class WorkBar:
    """What people did with the masks of one version, as a bar and in numbers. `is_served`: people see it now."""

    line: WorkLine
    bars: tuple[Bar, ...]
    is_served: bool


@dataclass(frozen=True)
class Tick:
    """One number of an axis, and where it stands."""

    at: float
    text: str


@dataclass(frozen=True)
class CurvePlot:
    """A learning curve as shapes of a picture: `line` and `band` are points of SVG; `now` is where the labels of today
    stand, `coming` where 50, 100 and 200 more would."""

    line: str
    band: str
    points: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    now: float
    coming: tuple[Tick, ...]


@dataclass(frozen=True)
class LearningPage:
    """What the page shows. `in_use` is the version that the figures of classes are of."""

    plan: KeptPlan | None
    plot: CurvePlot | None
    work: tuple[WorkBar, ...]
    saving: str
    classes: tuple[ClassLine, ...]
    more_classes: int
    in_use: str
    accuracy: float | None
    accuracy_before: float | None
    trouble: str = ""
    """Why the version in use cannot be read."""


def learning_page(
    plan: KeptPlan | None,
    work: Sequence[WorkLine],
    saved: Saving | None,
    classes: Sequence[str],
    figures: Mapping[str, Any],
    in_use: str,
    served: str = "",
    trouble: str = "",
) -> LearningPage:
    """The page of a project. `classes` are the configuration's labels, `figures` what the version in use knows;
    `served` is the version of the last ranking."""
    lines = class_lines(classes, figures)
    return LearningPage(
        plan=plan,
        plot=plot_of(plan) if plan is not None else None,
        work=tuple(WorkBar(line, bars_of(line), served.startswith(f"{line.version}.")) for line in work),
        saving=saved.line if saved is not None else "",
        classes=tuple(lines[:CLASSES_SHOWN]),
        more_classes=max(len(lines) - CLASSES_SHOWN, 0),
        in_use=in_use,
        accuracy=known(figures.get("class_accuracy")),
        accuracy_before=known(figures.get("class_accuracy_before")),
        trouble=trouble,
    )


def class_lines(classes: Sequence[str], figures: Mapping[str, Any]) -> list[ClassLine]:
    """One line a label, the least known first: these are what to label next.

    >>> class_lines(["cat", "dog"], {"labels/cat": 9.0, "precision/cat": 0.9, "recall/cat": 1.0})[0].name
    'dog'
    """
    lines = [
        ClassLine(
            name,
            known(figures.get(f"labels/{name}")) or 0.0,
            known(figures.get(f"precision/{name}")),
            known(figures.get(f"recall/{name}")),
        )
        for name in classes
    ]
    return sorted(lines, key=lambda line: (line.labels > 0, line.recall if line.recall is not None else -1.0))


def bars_of(line: WorkLine) -> tuple[Bar, ...]:
    """The parts of the bar, those of no width left out."""
    bars, start = [], 0.0
    for kind in ("kept", "relabelled", "corrected", "deleted"):
        width = float(getattr(line, kind))
        if width > 0:
            bars.append(Bar(kind, round(start, 2), round(width, 2)))
        start += width
    return tuple(bars)


def plot_of(plan: KeptPlan) -> CurvePlot:
    """The picture of a plan's curve."""
    most = max(max(point.labels for point in plan.curve), 1)
    values = [value for _, value in plan.measured] + [value for p in plan.curve for value in (p.low, p.high)]
    low, high = max(min(values), 0.0), min(max(values), 1.0)
    spare = max(LEAST_SPAN - (high - low), 0.1 * (high - low)) / 2
    low, high = max(low - spare, 0.0), min(high + spare, 1.0)

    def x(labels: float) -> float:
        return round(LEFT + (WIDTH - LEFT) * labels / most, 1)

    def y(value: float) -> float:
        return round((HEIGHT - BOTTOM) * (1 - (min(max(value, low), high) - low) / (high - low)), 1)

    def joined(pairs: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(labels)},{y(value)}" for labels, value in pairs)

    curve = plan.curve
    upper = [(point.labels, point.high) for point in curve]
    lower = [(point.labels, point.low) for point in reversed(curve)]
    return CurvePlot(
        line=joined([(point.labels, point.value) for point in curve]),
        band=joined([*upper, *lower]),
        points=tuple((x(count), y(value)) for count, value in plan.measured),
        across=tuple(Tick(x(count), f"{count:,}") for count in steps(0, most)),
        up=tuple(Tick(y(value), f"{value:.2f}") for value in (low + (high - low) * part / 4 for part in range(5))),
        now=x(plan.labels),
        coming=tuple(Tick(x(plan.labels + gain.labels), f"+{gain.labels}") for gain in plan.gains),
    )


def steps(first: int, last: int, most: int = 5) -> list[int]:
    """Round numbers from `first` to `last`, `most` of them or one more.

    >>> steps(0, 230)
    [0, 50, 100, 150, 200]
    """
    size = next(
        size
        for power in range(12)
        for size in (10**power, 2 * 10**power, 5 * 10**power)
        if (last - first) / size <= most
    )
    return list(range(first, last + 1, size))
