"""The head set that belongs to a checkpoint: bundled, fetched, or named by the user."""

from __future__ import annotations

from pathlib import Path

from usam.checkpoints.registry import heads_for, published_heads
from usam.heads.head_set import HeadSet


def resolve_heads(name: str, heads: HeadSet | str | Path | None) -> HeadSet | None:
    """The head set that `load` would use for a checkpoint, given its `heads` argument. Raises HeadsError."""
    if heads == "auto":
        heads = heads_for(name)
    if heads is None or isinstance(heads, HeadSet):
        return heads
    for published in published_heads().values():
        if heads in (published.name, published.path):
            return HeadSet.load(published.path, checkpoint=published.family)
    return HeadSet.load(Path(heads))
