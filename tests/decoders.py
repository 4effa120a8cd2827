"""Decoders of projects' own, made without any tuning."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from usam.checkpoints.registry import registry, weights_of
from usam.predictor.own_decoder import TunedDecoder

WIDTH = 128
"""Of a token of nano-s."""


@cache
def _decoder_of(model: str) -> Any:
    from usam.checkpoints.registry import build_model

    return build_model(model).sam_mask_decoder


def shaken_decoder(seed: int = 0, model: str = "nano-s", learnt: tuple[str, ...] = ()) -> TunedDecoder:
    """The checkpoint's decoder, a little off."""
    plain = _decoder_of(model).state_dict()  # made first: it draws random numbers too
    torch.manual_seed(seed)
    weights = {
        key: (value + 0.03 * value.std(correction=0) * torch.randn_like(value)).half().float()
        for key, value in plain.items()
    }
    return TunedDecoder(weights_of(model), registry()[model].sha256, weights, {"gain": 0.05, "blend": 0.5}, learnt)
