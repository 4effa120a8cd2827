"""From a table of tokens to a head set: all heads in one network, or a project's labels on top of given
heads.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usam.training.adaptation import Adaptation, adapt_heads
    from usam.training.fitting import FitResult, fit_heads
    from usam.training.search import SearchResult, search_settings
    from usam.training.settings import PRESETS, Preset, TrainSettings
    from usam.training.split import Split, group_folds, split_groups

_HOMES = {
    "PRESETS": "settings",
    "Adaptation": "adaptation",
    "FitResult": "fitting",
    "Preset": "settings",
    "SearchResult": "search",
    "Split": "split",
    "TrainSettings": "settings",
    "adapt_heads": "adaptation",
    "fit_heads": "fitting",
    "group_folds": "split",
    "search_settings": "search",
    "split_groups": "split",
}

__all__ = [
    "PRESETS",
    "Adaptation",
    "FitResult",
    "Preset",
    "SearchResult",
    "Split",
    "TrainSettings",
    "adapt_heads",
    "fit_heads",
    "group_folds",
    "search_settings",
    "split_groups",
]


def __getattr__(name: str) -> Any:
    """Settings and splits can be had without importing torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no {name}")
    from importlib import import_module

    return getattr(import_module(f"usam.training.{_HOMES[name]}"), name)
