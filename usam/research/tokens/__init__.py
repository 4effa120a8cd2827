"""From labelled images and SAM checkpoints to a table of tokens and targets on disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usam.research.tokens.manifest import Manifest, TokenSettings
    from usam.research.tokens.run import RunReport, extract_tokens
    from usam.research.tokens.table import TokenTable

_HOMES = {
    "Manifest": "manifest",
    "RunReport": "run",
    "TokenSettings": "manifest",
    "TokenTable": "table",
    "extract_tokens": "run",
}

__all__ = [
    "Manifest",
    "RunReport",
    "TokenSettings",
    "TokenTable",
    "extract_tokens",
]


def __getattr__(name: str) -> Any:
    """Reading a table imports no torch; making one does."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"usam.research.tokens.{_HOMES[name]}"), name)
