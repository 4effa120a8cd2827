"""From labelled images and SAM checkpoints to a table of tokens and targets on disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usam.tokens.manifest import Manifest, TokenSettings
    from usam.tokens.run import RunReport, extract_tokens
    from usam.tokens.table import TokenTable
    from usam.tokens.targets import best_iou, head_name, head_targets, picked_iou

_HOMES = {
    "Manifest": "manifest",
    "RunReport": "run",
    "TokenSettings": "manifest",
    "TokenTable": "table",
    "best_iou": "targets",
    "extract_tokens": "run",
    "head_name": "targets",
    "head_targets": "targets",
    "picked_iou": "targets",
}

__all__ = [
    "Manifest",
    "RunReport",
    "TokenSettings",
    "TokenTable",
    "best_iou",
    "extract_tokens",
    "head_name",
    "head_targets",
    "picked_iou",
]


def __getattr__(name: str) -> Any:
    """Reading a table imports no torch; making one does."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"usam.tokens.{_HOMES[name]}"), name)
