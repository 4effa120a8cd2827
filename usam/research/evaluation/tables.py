"""The paper's tables for any checkpoint and data set: figures with intervals, as CSV and Markdown.

Legend: N objects. Figures are fractions of one unless their unit says otherwise; intervals are 95 %
percentile intervals of a bootstrap over images. Tables of UncertainSAM (arXiv 2505.05049), with ours beside
them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from usam.files import replace_text
from usam.heads.head_set import HeadSet
from usam.research.evaluation.objects import COSTS, Objects, read_objects
from usam.research.tokens import TokenTable
from usam.statistics import (
    Float64s,
    Interval,
    bootstrap_auc,
    bootstrap_calibration,
    bootstrap_mean,
    bootstrap_pearson,
    pearson_matrix,
    replacement_curve,
)


@dataclass(frozen=True)
class Figure:
    """One figure: its table, the row it stands in (`subject`), its column (`quantity`), value and interval."""

    table: str
    subject: str
    quantity: str
    value: float
    low: float = float("nan")
    high: float = float("nan")

    @classmethod
    def of(cls, table: str, subject: str, quantity: str, interval: Interval) -> Figure:
        """From an interval."""
        return cls(table, subject, quantity, interval.value, interval.low, interval.high)

    def text(self) -> str:
        """Value and interval to four digits."""
        if np.isnan(self.low):
            return f"{self.value:.4f}"
        return f"{self.value + 0.0:.4f} [{self.low + 0.0:.4f}, {self.high + 0.0:.4f}]"


@dataclass(frozen=True)
class Runtime:
    """Seconds for one image and prompt with one model: SAM alone, with heads, with 8 prompts, with 5 more
    images.
    """

    model: str
    seconds: dict[str, float]
    device: str


@dataclass(frozen=True)
class Evaluation:
    """All figures, the replacement curves {use: {measure: (K,)}} and the Pearson matrix with its names."""

    figures: tuple[Figure, ...]
    curves: dict[str, dict[str, Float64s]]
    names: tuple[str, ...]
    correlations: Float64s
    objects: Objects
    left_out: int

    def value(self, table: str, subject: str, quantity: str) -> float:
        """One figure's value. Raises `KeyError` where there is none."""
        for figure in self.figures:
            if (figure.table, figure.subject, figure.quantity) == (table, subject, quantity):
                return figure.value
        raise KeyError((table, subject, quantity))


def evaluate(
    tables: TokenTable | Sequence[TokenTable],
    heads: HeadSet,
    out: Path | None = None,
    *,
    model: str | None = None,
    small: str | None = None,
    large: str | None = None,
    unseen_by: frozenset[str] = frozenset(),
    replicates: int = 1000,
    seed: int = 0,
    extra: Sequence[Figure] = (),
    runtimes: Sequence[Runtime] = (),
) -> Evaluation:
    """Judge heads on the objects of token tables; with `out`, write `figures.csv`, `report.md` and plots
    there.

    Objects of the groups `unseen_by` (those that trained the heads) are left out. `extra` figures, such as
    a token ablation, and `runtimes` are added to what is written. Raises `HeadsError` or `TokensError`
    where heads and tables do not fit.
    """
    tables = [tables] if isinstance(tables, TokenTable) else list(tables)
    objects, left_out = read_objects(tables, heads, model=model, small=small, large=large, unseen_by=unseen_by)
    figures: list[Figure] = []
    curves: dict[str, dict[str, Float64s]] = {}
    for name in objects.uses:
        rows, curves[name] = use_figures(objects, name, replicates, seed)
        figures += rows
    figures += correlation_figures(objects, replicates, seed)
    figures += calibration_figures(objects, replicates, seed)
    columns = _object_columns(objects)
    result = Evaluation(
        (*figures, *extra, *runtime_figures(runtimes)),
        curves,
        tuple(columns),
        pearson_matrix(columns),
        objects,
        left_out,
    )
    if out is not None:
        write(result, heads, out)
    return result


def use_figures(objects: Objects, name: str, replicates: int, seed: int) -> tuple[list[Figure], dict[str, Float64s]]:
    """Relative AUC, share to the oracle and mean IoU with half refined of each measure for one use, and the
    curves.

    Random order is its expectation: a measure that is the same everywhere.
    """
    use = objects.use(name)
    gain = np.asarray(use.after, np.float64) - use.before
    options = {"replicates": replicates, "seed": seed}
    figures = [
        Figure.of(name, "no refinement", "mean IoU", bootstrap_mean(use.before, objects.groups, **options)),
        Figure.of(name, "all refined", "mean IoU", bootstrap_mean(use.after, objects.groups, **options)),
    ]
    curves: dict[str, Float64s] = {}
    for measure, values in {**use.measures, "random": np.zeros(len(gain)), "oracle": gain}.items():
        auc, share = bootstrap_auc(values, use.before, use.after, objects.groups, **options)
        curve = replacement_curve(values, use.before, use.after)
        half = float(np.interp(0.5, np.linspace(0, 1, len(curve)), curve))
        figures += [
            Figure.of(name, measure, "relative AUC", auc),
            Figure.of(name, measure, "share to oracle", share),
            Figure(name, measure, "mean IoU, half refined", half),
        ]
        curves[measure] = curve
    return figures, curves


def correlation_figures(objects: Objects, replicates: int, seed: int) -> list[Figure]:
    """Pearson correlation with true IoU of predicted IoU, SamScore and entropies; of each head with its
    target.
    """
    options = {"replicates": replicates, "seed": seed}
    groups = np.repeat(objects.groups, 3)
    figures = []
    best = objects.iou.max(axis=1)
    pick = objects.samscore.argmax(axis=1)
    measures = {"USAM": objects.predictions[objects.quality], "SamScore": objects.samscore, **objects.entropies}
    for measure, values in measures.items():
        highest = values.max(axis=1) if measure in ("USAM", "SamScore") else values[np.arange(len(pick)), pick]
        over_all = bootstrap_pearson(values.ravel(), objects.iou.ravel(), groups, **options)
        over_best = bootstrap_pearson(highest, best, objects.groups, **options)
        figures += [
            Figure.of("correlation with true IoU", measure, "Pearson, all three masks", over_all),
            Figure.of("correlation with true IoU", measure, "Pearson, best of three", over_best),
        ]
    for head, truth in objects.truths.items():
        own = bootstrap_pearson(objects.predictions[head].ravel(), truth.ravel(), groups, **options)
        error = np.abs(objects.predictions[head] - truth).mean(axis=1)
        figures += [
            Figure.of("heads", head, "Pearson with target", own),
            Figure.of("heads", head, "mean absolute error", bootstrap_mean(error, objects.groups, **options)),
        ]
    return figures


def calibration_figures(objects: Objects, replicates: int, seed: int) -> list[Figure]:
    """Calibration error of predicted IoU and of SamScore against the IoU of the same masks."""
    groups = np.repeat(objects.groups, 3)
    truth = objects.iou.ravel()
    measures = {"USAM": objects.predictions[objects.quality], "SamScore": objects.samscore}
    return [
        Figure.of(
            "calibration",
            measure,
            "calibration error",
            bootstrap_calibration(values.ravel(), truth, groups, replicates=replicates, seed=seed),
        )
        for measure, values in measures.items()
    ]


def runtime_figures(runtimes: Sequence[Runtime]) -> list[Figure]:
    """Seconds by model and variant."""
    return [
        Figure("runtime, seconds", f"{runtime.model} on {runtime.device}", variant, seconds)
        for runtime in runtimes
        for variant, seconds in runtime.seconds.items()
    ]


def _object_columns(objects: Objects) -> dict[str, Float64s]:
    """What the Pearson matrix compares, one value an object: truths, predictions and baselines."""
    columns: dict[str, Float64s] = {"true IoU": objects.iou.max(axis=1).astype(np.float64)}
    gaps = ("model_gap", "prompt_gap", "task_gap")
    columns |= {
        f"true {gap}": objects.truths[gap].mean(axis=1, dtype=np.float64) for gap in gaps if gap in objects.truths
    }
    columns["predicted IoU"] = objects.predictions[objects.quality].max(axis=1).astype(np.float64)
    predictions = objects.predictions
    columns |= {
        f"predicted {gap}": predictions[gap].mean(axis=1, dtype=np.float64) for gap in gaps if gap in predictions
    }
    columns["SamScore"] = objects.samscore.max(axis=1).astype(np.float64)
    row, pick = np.arange(len(objects)), objects.samscore.argmax(axis=1)
    return columns | {name: values[row, pick].astype(np.float64) for name, values in objects.entropies.items()}


def write(result: Evaluation, heads: HeadSet, out: Path) -> None:
    """Write `figures.csv`, `report.md` and the plots; each file appears whole or not at all."""
    from usam.research.evaluation import plots

    out.mkdir(parents=True, exist_ok=True)
    replace_text(out / "figures.csv", csv_text(result.figures))
    replace_text(out / "pearson.csv", _matrix_text(result))
    plots.write_curves(result.curves, out / "refinement.png")
    quality = result.objects.predictions[result.objects.quality]
    plots.write_reliability(
        {"predicted IoU": quality.ravel(), "SamScore": result.objects.samscore.ravel()},
        result.objects.iou.ravel(),
        out / "reliability.png",
    )
    plots.write_matrix(result.names, result.correlations, out / "pearson.png")
    replace_text(out / "report.md", report_text(result, heads))


def csv_text(figures: Sequence[Figure]) -> str:
    """One line a figure."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["table", "subject", "quantity", "value", "low", "high"])
    for figure in figures:
        numbers = ("" if np.isnan(number) else f"{number:.6g}" for number in (figure.value, figure.low, figure.high))
        writer.writerow([figure.table, figure.subject, figure.quantity, *numbers])
    return lines.getvalue()


def _matrix_text(result: Evaluation) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["", *result.names])
    for name, row in zip(result.names, result.correlations, strict=True):
        writer.writerow([name, *(f"{value:.4f}" for value in row)])
    return lines.getvalue()


_TITLES = {
    "model": "Refine with the larger model",
    "prompt": "Refine with eight points",
    "task": "Refine by choosing among the three masks",
    "truth": "Replace by the truth",
}


def report_text(result: Evaluation, heads: HeadSet) -> str:
    """The report in Markdown."""
    objects = result.objects
    lines = [
        f"# Heads of {objects.model}, version {heads.version}",
        "",
        f"{len(objects)} objects of {len(set(objects.groups.tolist()))} images or videos; "
        f"mask tokens {heads.alignment}; own IoU by `{objects.quality}`. "
        + (f"{result.left_out} objects left out: their images trained the heads. " if result.left_out else "")
        + "Brackets: 95 % intervals by bootstrap over images.",
        "",
    ]
    tables: dict[str, list[Figure]] = {}
    for figure in result.figures:
        tables.setdefault(figure.table, []).append(figure)
    for table, figures in tables.items():
        lines += [f"## {_TITLES.get(table, table[0].upper() + table[1:])}", ""]
        quantities = list(dict.fromkeys(figure.quantity for figure in figures))
        rows: dict[str, dict[str, str]] = {}
        for figure in figures:
            rows.setdefault(figure.subject, {})[figure.quantity] = figure.text()
        cost = table in _TITLES
        lines.append("| | " + " | ".join([*quantities, *(["costs beside one prompt"] if cost else [])]) + " |")
        lines.append("|---" * (len(quantities) + 1 + cost) + "|")
        for subject, cells in rows.items():
            extra = [COSTS.get(subject, "")] if cost else []
            lines.append(f"| {subject} | " + " | ".join([*(cells.get(each, "") for each in quantities), *extra]) + " |")
        lines.append("")
    lines += ["![Mean IoU against the share refined](refinement.png)", ""]
    lines += ["![Reliability](reliability.png)", "", "![Pearson correlations](pearson.png)", ""]
    return "\n".join(lines)
