"""What campaigns came to, for people (Markdown and plots) and for programs (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from usam.active.learning_curve import LearningCurve, fit_curve
from usam.errors import SimulationError
from usam.files import replace_text
from usam.research.simulation.campaign import Campaign, Point
from usam.research.simulation.curves import Curve, curve, mean_interval, saving, table
from usam.research.simulation.plots import write_campaigns
from usam.research.simulation.runs import Played
from usam.statistics import Interval

LEAST_GAIN = 0.005
"""Achievable gain in IoU below which it is not asked how soon a strategy gets there."""
POINT_FIELDS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class Summary:
    """One strategy at the end of its budget: means over seeds with their intervals."""

    strategy: str
    labels: float
    clicks: Interval
    hours: Interval
    machine_iou: Interval
    gain: Interval
    project_iou: Interval
    accepted_share: Interval
    violations: Interval
    broken: float
    stop: str


def summaries(played: Played, risk: float) -> list[Summary]:
    """A row a strategy. `broken`: share of the campaigns in which more than `risk` of what was accepted at the end
    missed the promise.
    """
    rows = []
    for strategy, seeds in played.campaigns.items():
        ends, starts = [points[-1] for points in seeds], [points[0] for points in seeds]
        fitted = fitted_curve(seeds)
        rows.append(
            Summary(
                strategy,
                float(np.mean([end.labels for end in ends])),
                mean_interval([end.clicks for end in ends]),
                mean_interval([end.seconds / 3600 for end in ends]),
                mean_interval([end.machine_iou for end in ends]),
                mean_interval([end.machine_iou - start.machine_iou for end, start in zip(ends, starts, strict=True)]),
                mean_interval([end.project_iou for end in ends]),
                mean_interval([end.accepted_share for end in ends]),
                mean_interval([end.violations for end in ends]),
                float(np.mean([end.violations > risk for end in ends])),
                fitted.suggestion() if fitted is not None else "too short a history to say",
            )
        )
    return rows


def fitted_curve(seeds: Sequence[Sequence[Point]]) -> LearningCurve | None:
    """The learning curve of the mean over seeds; None where the history is too short."""
    found = curve("", seeds, "machine_iou", places=max(min(map(len, seeds)), 2))
    try:
        return fit_curve(found.at.tolist(), found.mean.clip(0, 1).tolist())
    except SimulationError:
        return None


def write_report(played: Played, base: Campaign, out: Path, title: str) -> Path:
    """Write points.csv, curves.csv, labels.png, seconds.png and report.md into `out`; returns the report's path."""
    out.mkdir(parents=True, exist_ok=True)
    rows = table(played.campaigns, POINT_FIELDS)
    _write_csv(out / "points.csv", ["strategy", "seed", *POINT_FIELDS], [list(row.values()) for row in rows])
    _write_csv(out / "curves.csv", ["strategy", "quantity", "labels", "mean", "low", "high"], _curve_rows(played))
    for cost in ("labels", "seconds"):
        write_campaigns(played.campaigns, out / f"{cost}.png", cost=cost, risk=base.promise.risk)
    path = out / "report.md"
    replace_text(path, "\n".join(_report(played, base, title)) + "\n")
    return path


def savings(played: Played) -> dict[str, tuple[Interval, float, float]] | str:
    """{strategy: (ratio of labels, own labels, those of random order)} for 90 % of the achievable gain, or why not."""
    if "random" not in played.campaigns:
        return "random order is not among the strategies"
    goals, gain = goals_of(played)
    if gain.value < LEAST_GAIN:
        return f"labels achieve {100 * gain.value:+.2f} points here: nothing to save on"
    fine = {name: _fine(name, seeds) for name, seeds in played.campaigns.items()}
    found = {}
    for name, own in fine.items():
        result = saving(own, fine["random"], goals)
        found[name] = (result.ratio, result.labels, result.against)
    return found


def goals_of(played: Played, share: float = 0.9) -> tuple[np.ndarray, Interval]:  # type: ignore[type-arg]
    """Mean IoU (S,) that is `share` of the way from no labels to all of the pool's, and the whole way's length."""
    starts = np.array([points[0].machine_iou for points in next(iter(played.campaigns.values()))])
    ceilings = np.array(played.ceilings)
    return starts + share * (ceilings - starts).mean(), mean_interval(ceilings - starts)


def _fine(strategy: str, seeds: Sequence[Sequence[Point]]) -> Curve:
    return curve(strategy, seeds, "machine_iou", places=101)


def _report(played: Played, base: Campaign, title: str) -> list[str]:
    promise, cost = base.promise, base.annotator.cost
    count = len(played.ceilings)
    lines = [
        f"# {title}",
        "",
        f"{count} seeds; {base.budget} labels (objects) at most, heads trained after each {base.step}; audits "
        f"{base.audit_share:.0%}, held-out images {base.test_share:.0%}. Intervals are 95 % over seeds, which share "
        "images: they say how much the draw of images matters, not how other data would come out.",
        "",
        f"Annotator: takes a mask of IoU {base.annotator.threshold:g}; a look costs {cost.look_s:g} s, a click "
        f"{cost.click_s:g} s, a polygon {cost.polygon_s:g} s (or {cost.polygon_clicks} clicks). RiskGuarantee: at most "
        f"{promise.risk:.0%} of accepted masks below IoU {promise.iou:g}, with confidence {promise.confidence:.0%}.",
        "",
        "| strategy | labels | clicks | hours | machine's IoU | gained | project's IoU | accepted | violations |"
        " broken |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = summaries(played, promise.risk)
    for row in rows:
        cells = [
            row.strategy,
            f"{row.labels:.0f}",
            _told(row.clicks, 0),
            _told(row.hours, 2),
            _told(row.machine_iou, 3),
            _told(row.gain, 3),
            _told(row.project_iou, 3),
            _told(row.accepted_share, 3),
            _told(row.violations, 3),
            f"{row.broken:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "![against labels](labels.png)", "", "![against hours](seconds.png)", "", "## When to stop", ""]
    lines += [f"- {row.strategy}: {row.stop}" for row in rows]
    _, gain = goals_of(played)
    lines += ["", "## Labels for 90 % of the achievable gain", ""]
    lines.append(f"All labels of the pool achieve {100 * gain.value:+.2f} points [{_points(gain)}] on held-out images.")
    found = savings(played)
    if isinstance(found, str):
        lines.append(found[0].upper() + found[1:] + ".")
    else:
        lines += ["", "| strategy | labels | random order | share |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {own:.0f} | {other:.0f} | {_told(ratio, 2)} |" for name, (ratio, own, other) in found.items()
        ]
    return lines


def _curve_rows(played: Played) -> list[list[object]]:
    rows: list[list[object]] = []
    for strategy, seeds in played.campaigns.items():
        for quantity in ("machine_iou", "project_iou", "calibration_error", "ranking", "accepted_share", "violations"):
            found = curve(strategy, seeds, quantity)
            half = np.nan_to_num(found.half_width)
            for at, mean, width in zip(found.at, found.mean, half, strict=True):
                rows.append([strategy, quantity, at, mean, mean - width, mean + width])
    return rows


def _told(found: Interval, digits: int) -> str:
    if np.isnan(found.low):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _points(found: Interval) -> str:
    return f"{100 * found.low:.2f}, {100 * found.high:.2f}"


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows])
    replace_text(path, text.getvalue())
