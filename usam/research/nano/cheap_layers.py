"""Layers of SAM 2 and of the trunk written so that a training step on a CPU costs less, with the same parameters."""

from __future__ import annotations

import torch
from sam2.modeling.sam.transformer import Attention
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from usam.checkpoints.nano import NanoSAM


class PlainAttention(Attention):  # type: ignore[misc]
    """SAM 2's attention written out: with a handful of tokens a CPU is several times faster without fusing it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query = self._separate_heads(self.q_proj(q), self.num_heads)
        key = self._separate_heads(self.k_proj(k), self.num_heads)
        value = self._separate_heads(self.v_proj(v), self.num_heads)
        with torch.autocast("cpu", enabled=False):
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            out = scores.softmax(-1) @ value
        return self.out_proj(self._recombine_heads(out))  # type: ignore[no-any-return]


def use_plain_attention(model: NanoSAM) -> None:
    """Make the decoder's attentions `PlainAttention`; parameters and results stay the same."""
    for module in model.sam_mask_decoder.transformer.modules():
        if type(module) is Attention:
            module.__class__ = PlainAttention


class DenseStride(Conv2dSame):
    """A strided depthwise convolution taken densely and thinned out: its gradient is twenty times faster."""

    def forward(self, features: Tensor) -> Tensor:
        padded = pad_same(features, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        dense = F.conv2d(padded, self.weight, self.bias, 1, 0, self.dilation, self.groups)
        return dense[..., :: self.stride[0], :: self.stride[1]]


def freeze_costly(model: NanoSAM, stages: int) -> None:
    """Stop the gradient for the first `stages` of the trunk and for all its depthwise kernels.

    Both are a few per cent of the weights and most of the time of a step on a CPU.
    """
    features = model.image_encoder.trunk.features
    features.conv_stem.requires_grad_(False)
    features.blocks[:stages].requires_grad_(False)
    for module in features.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.requires_grad_(False)
    for module in features.blocks[stages:].modules():
        if isinstance(module, Conv2dSame) and module.groups > 1 and module.stride[0] > 1:
            module.__class__ = DenseStride
