"""The published door: `from usam.patch_sam2 import patch_sam2`, as the paper's code has it."""

from __future__ import annotations

from usam.predictor.patch import patch_sam2, unpatch_sam2

__all__ = ["patch_sam2", "unpatch_sam2"]
