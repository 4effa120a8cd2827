"""What heads are worth: measures on arrays, tables over a data set, plots."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usam.evaluation.measures import (
        Interval,
        calibration_error,
        pearson,
        relative_auc,
        reliability,
        replacement_curve,
        share_to_oracle,
    )
    from usam.evaluation.tables import evaluate

_HOMES = {
    "Interval": "measures",
    "calibration_error": "measures",
    "evaluate": "tables",
    "pearson": "measures",
    "relative_auc": "measures",
    "reliability": "measures",
    "replacement_curve": "measures",
    "share_to_oracle": "measures",
}

__all__ = [
    "Interval",
    "calibration_error",
    "evaluate",
    "pearson",
    "relative_auc",
    "reliability",
    "replacement_curve",
    "share_to_oracle",
]


def __getattr__(name: str) -> Any:
    """The measures need NumPy alone; tables and plots load more when they are asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no {name}")
    from importlib import import_module

    return getattr(import_module(f"usam.evaluation.{_HOMES[name]}"), name)
