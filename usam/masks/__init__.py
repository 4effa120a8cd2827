"""Masks: how alike they are, at what size, and how they are written down for Label Studio."""

from usam.masks.overlap import as_mask, box_iou, box_nms, iou, mask_box, nms, pairwise_iou
from usam.masks.polygons import Region, count_holes, mask_to_polygons, polygon_to_mask, trace_regions
from usam.masks.resizing import resize_logits, resize_mask
from usam.masks.rle import decode_mask, decode_rle, encode_rle, rle_pixels
from usam.masks.specks import one_object, without_specks

__all__ = [
    "Region",
    "as_mask",
    "box_iou",
    "box_nms",
    "count_holes",
    "decode_mask",
    "decode_rle",
    "encode_rle",
    "iou",
    "mask_box",
    "mask_to_polygons",
    "nms",
    "one_object",
    "pairwise_iou",
    "polygon_to_mask",
    "resize_logits",
    "resize_mask",
    "rle_pixels",
    "trace_regions",
    "without_specks",
]
