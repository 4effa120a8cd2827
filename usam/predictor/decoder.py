"""SAM 2's mask decoder with its tokens as an explicit output.

Shapes: P prompts, M masks per prompt (3 or 1), T tokens of a prompt, D token width, E side of the image
embedding, N = E * E image tokens, h, w = 4 E low-resolution masks.

The decoder's own code runs, so masks and IoUs are its own, bit for bit. What it keeps to itself (the two-way
transformer's output, which holds the IoU token and the mask tokens) is taken from the call, not from a shared
module: `AttributeOverride` takes a module's place for the length of one call, and any number of threads can each have
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


class AttributeOverride:
    """Takes the place of `target` during a call: its methods run with some attributes replaced.

    `AttributeOverride(decoder, transformer=f)(x)` runs the decoder's `forward` with `f` for its transformer and leaves
    the decoder as it is.
    """

    def __init__(self, target: object, **replaced: Any) -> None:
        self.__dict__.update(replaced, _target=target)

    def __getattr__(self, name: str) -> Any:
        target = self.__dict__["_target"]
        value = getattr(target, name)
        if getattr(value, "__self__", None) is target and hasattr(value, "__func__"):
            return value.__func__.__get__(self)
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.__dict__["_target"]).forward(self, *args, **kwargs)


def mark(tensor: Tensor) -> tuple[Any, ...]:
    """Changes when a tensor is replaced, moved, cast or written to."""
    return tensor.data_ptr(), tensor.dtype, 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder gives for P prompts, and the tokens it made it from.

    masks          (P, M, h, w) logits, M = 3 with multimask output, else 1
    ious           (P, M) SAM's own estimate for these masks, 0..1, higher = better
    outputs        (P, M) int64, which of the decoder's outputs 0..3 each mask is
    iou_token      (P, D)
    mask_tokens    (P, 4, D), token m made output m
    object_logits  (P, 1), above 0 = the object is in the picture
    returned       the decoder's own return value
    """

    masks: Tensor
    ious: Tensor
    outputs: Tensor
    iou_token: Tensor
    mask_tokens: Tensor
    object_logits: Tensor
    returned: tuple[Tensor, Tensor, Tensor, Tensor]


def decode(decoder: Any, inputs: dict[str, Any], share: ImageShare | None = None) -> Decoded:
    """Run SAM 2's mask decoder on `inputs`, the arguments of its `forward`.

    `share`: of these inputs' image and dense embedding; what it holds is not computed again.
    """
    seen: dict[str, Tensor] = {}

    def transformer(image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        whole = decoder.transformer
        if is_stock_transformer(whole):
            seen["hidden"], keys = two_way(whole, image, image_pe, tokens, share)
        else:
            seen["hidden"], keys = whole(image, image_pe, tokens)
        return seen["hidden"], keys

    def iou_head(token: Tensor) -> Tensor:
        seen["ious"] = decoder.iou_prediction_head(token)
        return seen["ious"]

    def stability(logits: Tensor) -> Tensor:
        seen["stability"] = decoder._get_stability_scores(logits)
        return seen["stability"]

    stand_in = AttributeOverride(
        decoder, transformer=transformer, iou_prediction_head=iou_head, _get_stability_scores=stability
    )
    returned = stand_in(**inputs)
    masks, ious, _, object_logits = returned
    prompts = masks.shape[0]
    if inputs["multimask_output"]:
        outputs = torch.arange(1, masks.shape[1] + 1, device=masks.device).expand(prompts, -1)
    elif "stability" in seen:
        best = seen["ious"][:, 1:].argmax(-1, keepdim=True) + 1
        stable = seen["stability"] >= decoder.dynamic_multimask_stability_thresh
        outputs = torch.where(stable, torch.zeros_like(best), best)
    else:
        outputs = torch.zeros((prompts, 1), dtype=torch.int64, device=masks.device)
    iou_token, mask_tokens = split_tokens(decoder, seen["hidden"])
    return Decoded(masks, ious, outputs, iou_token, mask_tokens, object_logits, returned)


def split_tokens(decoder: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """iou_token (P, D) and mask_tokens (P, 4, D) of the transformer's output tokens (P, T, D)."""
    first = 1 if decoder.pred_obj_scores else 0
    return hidden[:, first], hidden[:, first + 1 : first + 1 + decoder.num_mask_tokens]


def is_stock_transformer(transformer: Any) -> bool:
    """Whether `transformer` is SAM 2's own, in eval mode and without hooks: `two_way` may stand for it."""
    if type(transformer) is not TwoWayTransformer or transformer.training:
        return False
    known = all(
        type(layer) is TwoWayAttentionBlock
        and type(layer.self_attn) is Attention
        and type(layer.cross_attn_token_to_image) is Attention
        and type(layer.cross_attn_image_to_token) is Attention
        for layer in transformer.layers
    )
    return known and not _has_hooks(transformer)


def _has_hooks(module: Any) -> bool:
    """Whether this module or one inside has a forward hook: asked at every click, so without `modules()`, which takes
    several times as long to keep names and repetitions apart."""
    left = [module]
    while left:
        own = vars(left.pop())
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            return True
        left += [inner for inner in own["_modules"].values() if inner is not None]
    return False


@dataclass(frozen=True)
class FirstLayer:
    """The image's share of the first transformer layer: the same for all prompts without a mask input.

    to_tokens_k, to_tokens_v  keys and values that tokens attend to, (1, heads, N, D / 2 / heads)
    to_image_q                queries of the image, same shape
    """

    to_tokens_k: Tensor
    to_tokens_v: Tensor
    to_image_q: Tensor

    @classmethod
    def of(cls, layer: Any, keys: Tensor, pe: Tensor) -> FirstLayer:
        """From the transformer's first layer, image tokens (1, N, D) and their positional encoding (1, N, D)."""
        placed = keys + pe
        to_tokens, to_image = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        return cls(
            _heads(to_tokens, to_tokens.k_proj(placed)),
            _heads(to_tokens, to_tokens.v_proj(keys)),
            _heads(to_image, to_image.q_proj(placed)),
        )


@dataclass
class ImageShare:
    """What all prompts without mask input have in common on one image: filled on first use.

    dense_pe  (1, D, E, E) positional encoding of the image
    first_layer, flat  see there
    """

    dense_pe: Tensor
    first_layer: FirstLayer | None = None
    flat: TokenImage | None = None


@dataclass(frozen=True)
class TokenImage:
    """One image's tokens (1 or P, N, D) with their positions (1, N, D), contiguous, and `FirstLayer` if shared."""

    keys: Tensor
    pe: Tensor
    first: FirstLayer | None = None


def two_way(
    transformer: Any, image: Tensor, image_pe: Tensor, tokens: Tensor, share: ImageShare | None = None
) -> tuple[Tensor, Tensor]:
    """SAM 2's two-way transformer (Segment Anything, arXiv 2304.02643, appendix A), operation by operation.

    image, image_pe (P, D, E, E), tokens (P, T, D) -> tokens (P, T, D), image tokens (P, N, D). Equal bit for
    bit to the module's `forward`; it adds the positional encoding to the image once per layer rather than
    twice, and with `share` computes the image's part of the first layer once per image.
    """
    keys, pe = flatten_image(image), flatten_image(image_pe)
    if share and share.first_layer is None:
        share.first_layer = FirstLayer.of(transformer.layers[0], keys, pe)
    queries = tokens
    for index, layer in enumerate(transformer.layers):
        shared = share.first_layer if share and index == 0 else None
        placed = None if shared else keys + pe
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + tokens
            queries = queries + layer.self_attn(q=q, k=q, v=queries)
        queries = layer.norm1(queries)

        attention = layer.cross_attn_token_to_image
        q = _heads(attention, attention.q_proj(queries + tokens))
        k = shared.to_tokens_k if shared else _heads(attention, attention.k_proj(placed))
        v = shared.to_tokens_v if shared else _heads(attention, attention.v_proj(keys))
        queries = layer.norm2(queries + _attend(attention, q, k, v))

        queries = layer.norm3(queries + layer.mlp(queries))

        attention = layer.cross_attn_image_to_token
        q = shared.to_image_q if shared else _heads(attention, attention.q_proj(placed))
        k = _heads(attention, attention.k_proj(queries + tokens))
        v = _heads(attention, attention.v_proj(queries))
        keys = layer.norm4(keys + _attend(attention, q, k, v))

    attended = transformer.final_attn_token_to_image(q=queries + tokens, k=keys + pe, v=keys)
    return transformer.norm_final_attn(queries + attended), keys


def flatten_image(image: Tensor) -> Tensor:
    """(P, D, E, E) to image tokens (P, N, D)."""
    return image.flatten(2).permute(0, 2, 1)


def _heads(attention: Any, x: Tensor) -> Tensor:
    """(P, n, heads * d) to (P, heads, n, d)."""
    split: Tensor = attention._separate_heads(x, attention.num_heads)
    return split


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of projected heads, recombined and projected: (P, n, D)."""
    mixed = attention._recombine_heads(F.scaled_dot_product_attention(q, k, v))
    out: Tensor = attention.out_proj(mixed)
    return out
