"""What the patch uses of sam2 beyond its published methods, looked for once, when the patch is imported.

Another release may rename any of these without notice. The bound `sam2<1.2` keeps it away; where it came all the
same, the error names what is missing instead of a click that fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

from usam.errors import UsamError

USED: Mapping[type, Sequence[str]] = {
    SAM2ImagePredictor: (
        "_prep_prompts",
        "_predict",
        "_features",
        "_orig_hw",
        "_is_batch",
        "_is_image_set",
        "_bb_feat_sizes",
        "reset_predictor",
    ),
    SAM2VideoPredictor: ("_run_single_frame_inference", "add_new_points_or_box", "propagate_in_video"),
    SAM2Base: (
        "_encode_memory_in_output",
        "_encode_new_memory",
        "_forward_sam_heads",
        "_prepare_memory_conditioned_features",
        "_track_step",
        "_use_multimask",
        "binarize_mask_from_pts_for_mem_enc",
        "directly_add_no_mem_embed",
        "max_obj_ptrs_in_encoder",
        "memory_attention",
        "memory_temporal_stride_for_eval",
        "no_mem_embed",
        "num_maskmem",
        "track_step",
        "use_obj_ptrs_in_encoder",
    ),
    FpnNeck: ("position_encoding",),
    MaskDecoder: (
        "_get_stability_scores",
        "dynamic_multimask_stability_thresh",
        "iou_prediction_head",
        "num_mask_tokens",
        "pred_obj_scores",
        "transformer",
    ),
    Attention: ("_separate_heads", "_recombine_heads", "q_proj", "k_proj", "v_proj", "out_proj"),
    Hiera: ("_get_pos_embed", "patch_embed", "pos_embed", "pos_embed_window"),
}
"""Methods, and attributes that a class or one of its bases sets when it is made."""


def missing_names(used: Mapping[type, Sequence[str]] = USED) -> list[str]:
    """'Class.name' of everything in `used` that the class neither has nor sets when an object of it is made."""
    return [f"{owner.__name__}.{name}" for owner, names in used.items() for name in names if not _offers(owner, name)]


def check_sam2() -> None:
    """Raises UsamError with the names that this sam2 lacks."""
    if missing := missing_names():
        try:
            installed = version("sam2")
        except PackageNotFoundError:
            installed = "of unknown version"
        raise UsamError(
            f"a sam2 with {', '.join(missing)}",
            f"sam2 {installed} without",
            "install the release that the patch is made for: pip install 'sam2>=1.1,<1.2'",
        )


def _offers(owner: type, name: str) -> bool:
    if hasattr(owner, name):
        return True
    codes = (getattr(vars(base).get("__init__"), "__code__", None) for base in owner.__mro__)
    return any(name in code.co_names for code in codes if code is not None)
