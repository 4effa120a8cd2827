"""`patch_sam2`: SAM 2 predictors that return uncertainty scores with their masks.

    predictor = patch_sam2(SAM2ImagePredictor(model), heads)
    predictor.set_image(image)
    masks, ious, low_res, scores = predictor.predict(point_coords=[[x, y]], point_labels=[1])
    scores["task_gap"]  # (M,), one for each mask

Patching changes the object's class and touches neither the model's modules nor its weights; `unpatch_sam2`
undoes it. A patched predictor keeps its image and its heads to itself: any number of them may share one
model, in any threads.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

from usam.errors import UsamError
from usam.heads.head_set import HeadSet
from usam.predictor.base import Patched, PatchState
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.image import PatchedImagePredictor, TokenOutput
from usam.predictor.video import FrameScores, ObjectTokens, PatchedModel, PatchedVideoPredictor

__all__ = [
    "FrameScores",
    "ImageEmbedding",
    "ObjectTokens",
    "PatchedImagePredictor",
    "PatchedModel",
    "PatchedVideoPredictor",
    "TokenOutput",
    "patch_sam2",
    "unpatch_sam2",
]


def patch_sam2(predictor: Any, heads: HeadSet | str | os.PathLike[str] | None = None) -> Any:
    """Patch `predictor` and return it.

    predictor  a `SAM2ImagePredictor` (gets the methods of `PatchedImagePredictor`), a `SAM2VideoPredictor` or
               another `SAM2Base`
    heads      a `HeadSet`, or the file or folder of one (`HeadSet.load`); None gives masks without scores

    The attribute `checkpoint_name`, where the predictor has it, decides which heads fit. A predictor of a
    model whose image size is not 1024 gets the feature sizes that belong to it. Patching again replaces the
    heads.
    Raises HeadsError (heads unreadable, or of another checkpoint or token width), UsamError (not a SAM 2
    object).
    """
    if heads is not None and not isinstance(heads, HeadSet):
        heads = HeadSet.load(heads)
    if isinstance(predictor, Patched):
        predictor.set_heads(heads)
        return predictor
    state = PatchState(original=type(predictor))
    mixin = _mixin(predictor)
    if "checkpoint_name" not in vars(predictor):
        state.added.append("checkpoint_name")
        predictor.checkpoint_name = None
    if isinstance(predictor, SAM2ImagePredictor):
        side = predictor.model.sam_image_embedding_size
        sizes = [(side * scale, side * scale) for scale in (4, 2, 1)]
        if list(predictor._bb_feat_sizes) != sizes:
            state.restore["_bb_feat_sizes"] = predictor._bb_feat_sizes
            predictor._bb_feat_sizes = sizes
    predictor._usam = state
    predictor.__class__ = _patched_class(mixin, state.original)
    try:
        predictor.set_heads(heads)
    except UsamError:
        unpatch_sam2(predictor)
        raise
    return predictor


def unpatch_sam2(predictor: Any) -> Any:
    """Give a patched object its class and attributes back, and return it; others are returned as they are."""
    if not isinstance(predictor, Patched):
        return predictor
    state = predictor._usam
    predictor.__class__ = state.original
    for name in (*state.added, "_usam", "encoder_dtype", "chunk"):
        vars(predictor).pop(name, None)
    for name, value in state.restore.items():
        setattr(predictor, name, value)
    return predictor


def _mixin(predictor: Any) -> Any:
    if isinstance(predictor, SAM2ImagePredictor):
        return PatchedImagePredictor
    if isinstance(predictor, SAM2VideoPredictor):
        return PatchedVideoPredictor
    if isinstance(predictor, SAM2Base):
        return PatchedModel
    raise UsamError(
        "a SAM2ImagePredictor, a SAM2VideoPredictor or a SAM2Base",
        type(predictor).__name__,
        "patch the predictor or the model itself",
    )


@cache
def _patched_class(mixin: Any, original: Any) -> Any:
    """`mixin` itself where it derives from just `original`, else a class of both."""
    if original in mixin.__bases__:
        return mixin
    return type(f"Patched{original.__name__}", (mixin, original), {"__module__": mixin.__module__})
