"""Plots of an evaluation, drawn without a display and without global state.

Legend: N objects, C columns. Mean IoU, shares and IoUs in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.files import replacing
from usam.statistics import reliability

Floats = npt.NDArray[np.floating[Any]]
_STYLES = {"oracle": ("black", ":"), "random": ("grey", "--"), "USAM": ("tab:red", "-"), "SamScore": ("tab:blue", "-")}


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def write_curves(curves: Mapping[str, Mapping[str, Floats]], path: Path) -> Path:
    """A panel a use: mean IoU against the share refined, a line a measure (the paper's figure 5)."""
    figure = _figure(4.2 * len(curves), 4.0)
    for number, (use, measures) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), number + 1)
        for measure, curve in measures.items():
            colour, line = _STYLES.get(measure, (None, "-"))
            width = 2.2 if measure == "USAM" else 1.2
            axes.plot(np.linspace(0, 1, len(curve)), curve, line, color=colour, label=measure, linewidth=width)
        axes.set_title(use)
        axes.set_xlabel("share refined")
        axes.set_ylabel("mean IoU" if number == 0 else "")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return _save(figure, path)


def write_reliability(predicted: Mapping[str, Floats], true: Floats, path: Path, bins: int = 15) -> Path:
    """True against predicted IoU in bins of equally many masks, a line a predictor; the diagonal is
    perfect.
    """
    figure = _figure(4.6, 4.4)
    axes = figure.add_subplot(1, 1, 1)
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    for name, values in predicted.items():
        curve = reliability(values, true, bins)
        axes.plot(curve.predicted, curve.true, "o-", markersize=4, label=f"{name}, error {curve.error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted IoU", ylabel="true IoU", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(figure, path)


def write_matrix(names: Sequence[str], values: Floats, path: Path) -> Path:
    """(C, C) correlations as coloured squares with their values."""
    side = 1.5 + 0.5 * len(names)
    figure = _figure(side, side)
    axes = figure.add_subplot(1, 1, 1)
    axes.imshow(np.nan_to_num(values), cmap="coolwarm", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), labels=names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), labels=names, fontsize=7)
    for row in range(len(names)):
        for column in range(len(names)):
            axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", fontsize=6)
    return _save(figure, path)
