"""A checkpoint of the registry, patched and ready for an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from usam.checkpoints.registry import build_model, find, pick_device, resolve_heads
from usam.predictor.patch import PatchedImagePredictor, patch_sam2

if TYPE_CHECKING:
    import torch

    from usam.heads.head_set import HeadSet


def load(
    name: str,
    device: str | torch.device = "cpu",
    heads: HeadSet | str | Path | None = "auto",
    *,
    image_size: int | None = None,
) -> PatchedImagePredictor:
    """A patched predictor in eval mode, ready for `set_image`.

    Args:
        name: a checkpoint of the registry; becomes the predictor's `checkpoint_name`.
        device: 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto' for the best one there is.
        heads: a head set, the folder of one, the name of a fetched one, None for masks without scores, or
            'auto': the bundled heads of this checkpoint, else the published heads of its family when they
            were fetched, else none.
        image_size: see `usam.checkpoints.registry.build_model`.

    Raises CheckpointError (file missing or wrong, device not there) and HeadsError (heads that do not fit).
    """
    find(name)
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    target = pick_device(device)
    model = build_model(name, image_size=image_size).to(target)
    predictor = SAM2ImagePredictor(model)
    side = model.sam_image_embedding_size
    predictor._bb_feat_sizes = [(side * 4, side * 4), (side * 2, side * 2), (side, side)]
    predictor.checkpoint_name = name
    patched: PatchedImagePredictor = patch_sam2(predictor, resolve_heads(name, heads))
    return patched
