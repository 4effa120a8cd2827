"""Masks: how alike they are, at what size, and how they are written down for Label Studio."""

from usam.masks.overlap import as_mask, box_iou, box_nms, iou, mask_box, nms, pairwise_iou
from usam.masks.resizing import resize_logits, resize_mask

__all__ = [
    "as_mask",
    "box_iou",
    "box_nms",
    "iou",
    "mask_box",
    "nms",
    "pairwise_iou",
    "resize_logits",
    "resize_mask",
]
