"""Tokens of many prompts without their masks: the two-way transformer, rearranged.

Shapes: P prompts, T tokens of a prompt, D token width, I = D / 2 width inside a cross-attention, A attention
heads of d = I / A, E side of the image embedding, N = E * E image tokens.

SAM 2 projects the N image tokens of every prompt ten times. Here:

- The image's part of the first layer is the same for all prompts (without mask input) and computed once per
image.
- In the other cross-attentions the projections of the image move over to the few tokens, as matrices may be
  multiplied in any order: `q (W k)^T = (q W) k^T`. A token side of A T vectors of width D replaces N vectors
  of width I. Terms that do not depend on the position drop out of the softmax.

The result is that of the module up to rounding: for float32 tokens of order 1 the difference stays below
1e-4.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from usam.predictor.decoder import FirstLayer, ImageShare, TokenImage, flatten_image, is_stock_transformer

CHUNK_BYTES = {"cpu": 16 << 20, "mps": 256 << 20, "cuda": 1 << 30}
"""Bytes of image tokens that one pass may hold: what stays in a CPU's cache, and what fills a GPU."""
MANY_TOKENS = 32
"""From so many tokens in a prompt on, the module's own order of multiplication is the cheaper one."""


def chunk_size(image_tokens: int, width: int, device: torch.device) -> int:
    """Prompts of N = `image_tokens` and D = `width` to decode at a time on this kind of device, at least 1."""
    budget = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"])
    return max(1, budget // (image_tokens * width * 4))


def run_tokens(
    decoder: Any, image_embed: Tensor, sparse: Tensor, dense: Tensor, share: ImageShare, shared: bool
) -> tuple[Tensor, Tensor]:
    """Output tokens (P, T, D) and image tokens (P, N, D) of the decoder's transformer, up to rounding.

    image_embed  (1, D, E, E)
    sparse       (P, K, D) prompt embeddings
    dense        (P, D, E, E) mask embeddings; `shared` says that they are the constant for no mask input
    """
    own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    if decoder.pred_obj_scores:
        own.insert(0, decoder.obj_score_token.weight)
    tokens = torch.cat([torch.cat(own).expand(len(sparse), -1, -1), sparse], dim=1)
    if not is_stock_transformer(decoder.transformer) or tokens.shape[1] > MANY_TOKENS:
        pe = share.dense_pe.expand(len(tokens), -1, -1, -1)
        hidden, keys = decoder.transformer(image_embed + dense, pe, tokens)
        return hidden, keys
    if not shared:
        keys = flatten_image(image_embed + dense).contiguous()
        return token_pass(decoder.transformer, TokenImage(keys, flatten_image(share.dense_pe).contiguous()), tokens)
    if share.flat is None:
        share.flat = _shared_image(decoder.transformer, image_embed + dense[:1], share)
    return token_pass(decoder.transformer, share.flat, tokens)


def _shared_image(transformer: Any, image: Tensor, share: ImageShare) -> TokenImage:
    keys, pe = flatten_image(image), flatten_image(share.dense_pe)
    if share.first_layer is None:
        share.first_layer = FirstLayer.of(transformer.layers[0], keys, pe)
    first = share.first_layer
    laid_out = (first.to_tokens_k, first.to_tokens_v, first.to_image_q)
    return TokenImage(keys.contiguous(), pe.contiguous(), FirstLayer(*(part.contiguous() for part in laid_out)))


def token_pass(transformer: Any, image: TokenImage, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The two-way transformer's output tokens (P, T, D) and image tokens (P, N, D), up to rounding."""
    keys, pe, first = image.keys, image.pe, image.first
    queries = tokens
    for index, layer in enumerate(transformer.layers):
        shared = first if index == 0 else None
        placed = keys if shared else keys + pe
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + tokens
            queries = queries + layer.self_attn(q=q, k=q, v=queries)
        queries = layer.norm1(queries)

        attention = layer.cross_attn_token_to_image
        if shared:
            attended = _tokens_to_shared(attention, queries + tokens, shared)
        else:
            attended = _tokens_to_image(attention, queries + tokens, keys, placed)
        queries = layer.norm2(queries + attended)

        queries = layer.norm3(queries + layer.mlp(queries))

        attention = layer.cross_attn_image_to_token
        weights = _image_weights(attention, queries + tokens, placed, shared)
        keys = layer.norm4(_image_update(attention, keys, queries, weights))

    attended = _tokens_to_image(transformer.final_attn_token_to_image, queries + tokens, keys, keys + pe)
    return transformer.norm_final_attn(queries + attended), keys


def _split(x: Tensor, heads: int) -> Tensor:
    """(P, n, A * d) to (P, A, n, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """(P, A, n, d) to (P, n, A * d)."""
    return x.transpose(1, 2).flatten(2)


def _tokens_to_shared(attention: Any, queries: Tensor, first: FirstLayer) -> Tensor:
    """Tokens of all prompts attend to one image: P * T queries over the same keys. (P, T, D)."""
    prompts, count, _ = queries.shape
    q = _split(attention.q_proj(queries).flatten(0, 1)[None], attention.num_heads)
    mixed = F.scaled_dot_product_attention(q, first.to_tokens_k, first.to_tokens_v)
    out: Tensor = attention.out_proj(_join(mixed).view(prompts, count, -1))
    return out


def _tokens_to_image(attention: Any, queries: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
    """Tokens attend to their own image tokens `keys`, found by `placed` = keys + positions. (P, T, D)."""
    heads = attention.num_heads
    q = _split(attention.q_proj(queries), heads)
    scale = q.shape[-1] ** -0.5
    k_weight = attention.k_proj.weight.unflatten(0, (heads, -1))
    v_weight = attention.v_proj.weight.unflatten(0, (heads, -1))
    absorbed = torch.matmul(q * scale, k_weight).flatten(1, 2)
    logits = torch.matmul(absorbed, placed.transpose(1, 2))
    context = torch.matmul(logits.softmax(-1), keys).view(len(queries), heads, -1, keys.shape[-1])
    values = torch.matmul(context, v_weight.transpose(1, 2))
    out: Tensor = attention.out_proj(_join(values) + attention.v_proj.bias)
    return out


def _image_weights(attention: Any, queries: Tensor, placed: Tensor, first: FirstLayer | None) -> Tensor:
    """What each image token takes from each token: (P, A * T, N), summing to 1 over the T of a head."""
    heads = attention.num_heads
    k = _split(attention.k_proj(queries), heads)
    k = k * k.shape[-1] ** -0.5
    if first is not None:
        logits = torch.matmul(k, first.to_image_q.transpose(2, 3))
    else:
        weight = attention.q_proj.weight.unflatten(0, (heads, -1))
        bias = torch.matmul(k, attention.q_proj.bias.unflatten(0, (heads, -1, 1)))
        absorbed = torch.matmul(k, weight).flatten(1, 2)
        logits = torch.matmul(absorbed, placed.transpose(1, 2)).view(*k.shape[:3], -1) + bias
    return logits.softmax(2).flatten(1, 2)


def _image_update(attention: Any, keys: Tensor, queries: Tensor, weights: Tensor) -> Tensor:
    """keys (1 or P, N, D) plus what they take from the tokens, before the norm: (P, N, D)."""
    heads = attention.num_heads
    v = _split(attention.v_proj(queries), heads)
    out_weight = attention.out_proj.weight.T.unflatten(0, (heads, -1))
    taken = (torch.matmul(v, out_weight) + attention.out_proj.bias / heads).flatten(1, 2)
    base = keys.expand(len(queries), -1, -1)
    if base.dtype == weights.dtype == taken.dtype and not torch.is_autocast_enabled(base.device.type):
        return torch.baddbmm(base, weights.transpose(1, 2), taken)
    return base + torch.matmul(weights.transpose(1, 2), taken)
