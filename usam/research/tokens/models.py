"""The models whose tokens are extracted: by name, or untrained, and what tells their weights apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from usam.errors import TokensError
from usam.research.tokens.runner import TimedPredictor

LoadModel = Callable[[str, str], Any]
"""(name, device) -> patched predictor. Must be a module's function, so that worker processes can find it."""


def load_predictor(name: str, device: str) -> Any:
    """The registered checkpoint, without heads."""
    from usam.predictor.load import load

    return load(name, device, None)


def untrained_predictor(name: str, device: str) -> Any:
    """The model of a registered checkpoint with random weights (seed 0): for tests and for measuring speed."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from usam.checkpoints.registry import build_model, pick_device
    from usam.predictor.patch import patch_sam2

    torch.manual_seed(0)
    model = build_model(name, weights=False).to(pick_device(device))
    predictor = SAM2ImagePredictor(model)
    side = model.sam_image_embedding_size
    predictor._bb_feat_sizes = [(side * 4, side * 4), (side * 2, side * 2), (side, side)]
    return patch_sam2(predictor)


def checksum_of(name: str, load_model: LoadModel) -> str:
    """What tells one set of weights from another: the SHA-256 of the checkpoint's file, or how it was made."""
    if load_model is untrained_predictor:
        return "untrained, seed 0"
    import hashlib

    from usam.checkpoints.registry import verify

    digest = hashlib.sha256()
    with verify(name).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def make_runners(names: tuple[str, ...], device: str, load_model: LoadModel) -> list[TimedPredictor]:
    """Load the models. Raises `TokensError` when a name comes twice."""
    if len(set(names)) != len(names) or not names:
        raise TokensError("names of models, each once", ", ".join(names) or "none", "name each model once")
    return [TimedPredictor(name, load_model(name, device)) for name in names]
