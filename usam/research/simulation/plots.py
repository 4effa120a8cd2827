"""Plots of campaigns: a panel a quantity, a line a strategy, a band for the interval over seeds of its change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from usam.files import replacing
from usam.research.simulation.campaign import Point
from usam.research.simulation.curves import curve

TITLES = {
    "machine_iou": "mean IoU of the machine's masks, held-out images",
    "project_iou": "mean IoU of the project's masks",
    "accepted_share": "share accepted without a person",
    "violations": "share of accepted masks below the promise",
}
_STYLES = {"random": ("grey", "--"), "samscore": ("tab:blue", "-"), "task+epistemic": ("tab:red", "-")}


def write_campaigns(
    campaigns: Mapping[str, Sequence[Sequence[Point]]],
    path: Path,
    *,
    cost: str = "labels",
    quantities: Sequence[str] = tuple(TITLES),
    risk: float | None = None,
) -> Path:
    """One PNG; `cost` (labels, clicks or seconds) is the other axis, `risk` is drawn as the limit of violations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (len(quantities) + 1) // 2
    figure = Figure(figsize=(9.6, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, quantity in enumerate(quantities):
        axes = figure.add_subplot(rows, min(2, len(quantities)), number + 1)
        for strategy, seeds in campaigns.items():
            found = curve(strategy, seeds, quantity, cost)
            colour, line = _STYLES.get(strategy, (None, "-"))
            scale = 1 / 3600 if cost == "seconds" else 1.0
            drawn = axes.plot(found.at * scale, found.mean, line, color=colour, label=strategy, linewidth=1.4)
            low, high = found.mean - found.half_width, found.mean + found.half_width
            if len(seeds) > 1:
                axes.fill_between(found.at * scale, low, high, color=drawn[0].get_color(), alpha=0.12, linewidth=0)
        if quantity == "violations" and risk is not None:
            axes.axhline(risk, color="black", linestyle=":", linewidth=1)
        axes.set_title(TITLES.get(quantity, quantity.replace("_", " ")), fontsize=9)
        axes.set_xlabel("hours of a person" if cost == "seconds" else cost, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize=7)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100)
    return path
