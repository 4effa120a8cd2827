"""In which type a checkpoint encodes images here: what the setting asks for, and what the processor has.

Service and workers ask the same question, so that the embeddings that they share are of one type: `kept_as` is part of
the name under which an embedding is kept on disk, and another type never finds it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from backend.settings import Settings

if TYPE_CHECKING:
    import torch


def encoder_dtype(settings: Settings, checkpoint: str) -> torch.dtype | None:
    """The type that `checkpoint` encodes in, None for float32.

    `USAM_ENCODER_DTYPE=auto` is bfloat16 where the device computes it natively (AVX-512 BF16 or AMX, CUDA from Ampere
    on). The nano family stays in float32 whatever is asked: it is fast enough, and its masks change too much. Raises
    `CheckpointError` for a device that is not there.

    >>> from backend.settings import Settings
    >>> encoder_dtype(Settings(encoder_dtype="bfloat16", device="cpu"), "sam2.1_hiera_tiny")
    torch.bfloat16
    >>> encoder_dtype(Settings(encoder_dtype="bfloat16", device="cpu"), "nano-m") is None
    True
    """
    import torch

    from usam.checkpoints.registry import registry

    known = registry().get(checkpoint)
    if settings.encoder_dtype == "float32" or known is None or known.family == "nano":
        return None
    return torch.bfloat16 if settings.encoder_dtype == "bfloat16" else _fastest(settings.device)


def kept_as(settings: Settings, checkpoint: str) -> str:
    """What tells this type's embeddings from others' on disk; empty for float32, as files of old have it."""
    dtype = encoder_dtype(settings, checkpoint)
    return "" if dtype is None else str(dtype).removeprefix("torch.")


@cache
def _fastest(device: str) -> torch.dtype | None:
    import torch

    from usam.checkpoints.registry import pick_device
    from usam.predictor.encoder import fastest_dtype

    dtype = fastest_dtype(pick_device(device))
    return None if dtype == torch.float32 else dtype
