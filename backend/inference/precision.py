"""In which type a checkpoint encodes images here, and by what: as the settings ask, and the processor has it.

Service and workers ask the same question, so that the embeddings that they share are of one type: `kept_as` is part of
the name under which an embedding is kept on disk, and another type never finds it.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from backend.settings import Settings

if TYPE_CHECKING:
    import torch

    from usam.predictor.compiled import CompiledEncoder

log = logging.getLogger(__name__)


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


def compiled_encoder(settings: Settings, predictor: Any) -> CompiledEncoder | None:
    """What encodes instead of torch, where the setting asks for it, the image is encoded in float32 on a processor, and
    it gives what torch does; else None, and the log says why."""
    import torch

    if settings.encoder_runtime == "torch" or predictor.encoder_dtype is not None or predictor.device.type != "cpu":
        return None
    from usam.predictor.compiled import CompiledEncoder

    model, threads = predictor.model, settings.threads or torch.get_num_threads()
    compiled, why_not = CompiledEncoder.of(model.image_encoder, model.image_size, threads)
    if compiled is None:
        log.warning("images are encoded by torch, not by %s: %s", settings.encoder_runtime, why_not)
    return compiled


@cache
def _fastest(device: str) -> torch.dtype | None:
    import torch

    from usam.checkpoints.registry import pick_device
    from usam.predictor.encoder import fastest_dtype

    dtype = fastest_dtype(pick_device(device))
    return None if dtype == torch.float32 else dtype
