"""What every patched object has in common: heads that can be replaced, and the way back.

A patched object keeps its class's behaviour and adds scores. Its state lies in one attribute, `_usam`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from usam.errors import HeadsError
from usam.heads.head_set import HeadSet


@dataclass
class PatchState:
    """What a patched object carries besides its own: its heads, and what unpatching has to put back."""

    original: type
    heads: HeadSet | None = None
    restore: dict[str, Any] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    known_image: Any = None
    lean_encoder: Any = None


class Patched:
    """What every patched object has: heads that can be replaced while it is in use."""

    _usam: PatchState
    checkpoint_name: str | None

    @property
    def heads(self) -> HeadSet | None:
        """The head set in use, or None."""
        return self._usam.heads

    def set_heads(self, heads: HeadSet | None) -> None:
        """Use another head set (None: no scores) from the next call on. Safe while another thread predicts: a
        call uses one set from beginning to end.

        Raises HeadsError when the heads were trained on another checkpoint or token width.
        """
        if heads is not None:
            self._check_heads(heads)
            heads.to(self._sam_model().device)
        self._usam.heads = heads

    def _check_heads(self, heads: HeadSet) -> None:
        width, name = self._sam_model().sam_prompt_embed_dim, self.checkpoint_name
        if heads.width != width:
            raise HeadsError(
                f"heads for tokens of width {width}",
                f"width {heads.width} ({heads.checkpoint or 'unknown checkpoint'})",
                "use the heads of this checkpoint",
            )
        if not heads.fits(name):
            raise HeadsError(f"heads for {name}", f"heads for {heads.checkpoint}", "use the heads of this checkpoint")

    def _sam_model(self) -> Any:
        return self
