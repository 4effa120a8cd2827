"""A checkpoint of the registry, patched and ready for an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from usam.checkpoints.registry import build_model, find, pick_device
from usam.heads.bundled import resolve_heads
from usam.predictor.patch import PatchedImagePredictor, patch

if TYPE_CHECKING:
    import torch

    from usam.heads.head_set import HeadSet


def load(
    name: str,
    device: str | torch.device = "cpu",
    heads: HeadSet | str | Path | None = "auto",
    *,
    image_size: int | None = None,
    weights: bool = True,
) -> PatchedImagePredictor:
    """A patched predictor of a checkpoint, in eval mode and ready for `set_image`.

    Parameters
    ----------
    name
        A checkpoint of the registry (`usam models` lists them); becomes the predictor's `checkpoint_name`.
    device
        'cpu', 'cuda', 'cuda:1', 'mps', or 'auto' for the best one there is.
    heads
        A head set, the folder of one, the name of a fetched one, None for masks without scores, or 'auto': the
        bundled heads of this checkpoint, else the published heads of its family when they were fetched, else none.
    image_size
        Side of the model's square input in pixels, see `usam.checkpoints.registry.build_model`.
    weights
        False builds the model with random weights, without any file: for measuring speed.

    Returns
    -------
    A `SAM2ImagePredictor` whose `predict` gives masks, IoUs, logits and scores {head: one number a mask}.

    Raises
    ------
    CheckpointError
        The name is unknown, the file missing or wrong, or the device not there.
    HeadsError
        The heads do not fit.

    Examples
    --------
    >>> predictor = usam.load("nano-s")
    >>> predictor.set_image(image)
    >>> masks, ious, low_res, scores = predictor.predict(point_coords=[[40, 30]], point_labels=[1])
    >>> masks.shape[0] == len(scores["task_gap"]) == 3
    True
    """
    find(name)
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    target = pick_device(device)
    model = build_model(name, weights, image_size=image_size).to(target)
    predictor = SAM2ImagePredictor(model)
    side = model.sam_image_embedding_size
    predictor._bb_feat_sizes = [(side * 4, side * 4), (side * 2, side * 2), (side, side)]
    predictor.checkpoint_name = name
    patched: PatchedImagePredictor = patch(predictor, resolve_heads(name, heads))
    return patched
