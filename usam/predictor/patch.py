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
from typing import Any, Protocol, overload

from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

from usam.errors import UsamError
from usam.heads.head_set import HeadSet
from usam.predictor.base import Patched, PatchState
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.image import PatchedImagePredictor, TokenOutput
from usam.predictor.sam2_names import check_sam2
from usam.predictor.video import FrameScores, ObjectTokens, PatchedModel, PatchedVideoPredictor

__all__ = [
    "FrameScores",
    "ImageEmbedding",
    "ObjectTokens",
    "PatchedImagePredictor",
    "PatchedModel",
    "PatchedVideoPredictor",
    "TokenOutput",
    "patch",
    "patch_sam2",
    "unpatch_sam2",
]

check_sam2()


class ImagePredictor(Protocol):
    """What a `SAM2ImagePredictor` looks like to a type checker, which may not see into sam2."""

    def set_image(self, image: Any) -> None: ...


class VideoPredictor(Protocol):
    """What a `SAM2VideoPredictor` looks like to a type checker."""

    def propagate_in_video(self, inference_state: Any) -> Any: ...


class TrackingModel(Protocol):
    """What another `SAM2Base` looks like to a type checker."""

    def track_step(self, *args: Any, **kwargs: Any) -> Any: ...


@overload
def patch(
    predictor: ImagePredictor, heads: HeadSet | str | os.PathLike[str] | None = None
) -> PatchedImagePredictor: ...
@overload
def patch(
    predictor: VideoPredictor, heads: HeadSet | str | os.PathLike[str] | None = None
) -> PatchedVideoPredictor: ...
@overload
def patch(predictor: TrackingModel, heads: HeadSet | str | os.PathLike[str] | None = None) -> PatchedModel: ...
def patch(predictor: Any, heads: HeadSet | str | os.PathLike[str] | None = None) -> Any:
    """Give a SAM 2 predictor scores beside its masks, and return it.

    Masks, IoUs and logits stay those of the unpatched predictor, bit for bit. Patching again replaces the heads.

    Parameters
    ----------
    predictor
        A `SAM2ImagePredictor` (gets the methods of `PatchedImagePredictor`), a `SAM2VideoPredictor` or another
        `SAM2Base`. Its attribute `checkpoint_name`, where it has one, decides which heads fit. A predictor of a model
        whose image size is not 1024 gets the feature sizes that belong to it.
    heads
        A `HeadSet`, or the file or folder of one (`HeadSet.load`); None gives masks without scores.

    Returns
    -------
    The same object, now a `PatchedImagePredictor`, `PatchedVideoPredictor` or `PatchedModel`.

    Raises
    ------
    HeadsError
        The heads are unreadable, or of another checkpoint or token width.
    UsamError
        `predictor` is no SAM 2 object.

    Examples
    --------
    >>> from sam2.sam2_image_predictor import SAM2ImagePredictor
    >>> from usam.checkpoints.registry import build_model, heads_for
    >>> plain = SAM2ImagePredictor(build_model("nano-s"))
    >>> predictor = usam.patch(plain, heads_for("nano-s"))
    >>> predictor is plain
    True
    >>> predictor.set_image(image)
    >>> masks, ious, low_res, scores = predictor.predict(point_coords=[[40, 30]], point_labels=[1])
    >>> scores["task_gap"].shape
    (3,)
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


patch_sam2 = patch
"""The published name of `patch`."""


def unpatch_sam2(predictor: Any) -> Any:
    """Give a patched object its class and attributes back, and return it; others are returned as they are."""
    if not isinstance(predictor, Patched):
        return predictor
    state = predictor._usam
    predictor.__class__ = state.original
    for name in (*state.added, "_usam", "_stages", "keep_stages", "encoder_dtype", "compiled", "chunk"):
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
