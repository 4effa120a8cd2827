"""Small SAM 2 models of others, for images: SAM 2's neck, prompt encoder and decoder on a lighter trunk.

Legend: B images, S image side in pixels (square), C channels of a trunk.

EdgeTAM (arXiv 2501.07256) has timm's RepViT-M1 as its trunk, EfficientTAM (arXiv 2411.18933) a plain ViT whose blocks
attend in windows, but for every third one, and whose one map is all that the decoder gets. The published files hold
video memory as well, which is not built here and whose weights are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d
from timm.models.vision_transformer import Block
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from usam.checkpoints.nano import NoPosition
from usam.errors import CheckpointError

WIDTH = 256
PATCH, DEPTH, WINDOW = 16, 12, 14
PRETRAINED_CELLS = 14
"""Cells on a side of the position embedding, which images of all sizes scale."""
IMAGE_PARTS = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
"""How the names of weights begin that images need."""


@dataclass(frozen=True)
class PlainSize:
    """A plain ViT: channels and attention heads."""

    width: int
    heads: int


SIZES: dict[str, PlainSize | None] = {
    "edgetam": None,
    "efficienttam_ti": PlainSize(192, 3),
    "efficienttam_s": PlainSize(384, 6),
}
"""Models by the registry's `config`; None for RepViT-M1."""


class RepViTTrunk(nn.Module):
    """timm's RepViT-M1: (B, 3, S, S) to four maps at strides 4 to 32. `channel_list` from coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("repvit_m1", features_only=True, out_indices=(0, 1, 2, 3), pretrained=False)
        info: Any = self.body.feature_info
        self.channel_list: list[int] = list(info.channels())[::-1]

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(image)
        return maps


class PlainTrunk(nn.Module):
    """A plain ViT of timm's blocks: (B, 3, S, S) to one map (B, C, S / 16, S / 16)."""

    def __init__(self, size: PlainSize) -> None:
        super().__init__()
        self.channel_list = [size.width]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, size.width, PATCH, PATCH)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED_CELLS**2, size.width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, qkv_bias=True, norm_layer=norm) for _ in range(DEPTH)
        )  # fmt: skip

    def forward(self, image: Tensor) -> list[Tensor]:
        cells = self.patch_embed["proj"](image).permute(0, 2, 3, 1)
        cells = cells + self._positions(cells.shape[1], cells.shape[2])
        for index, block in enumerate(self.blocks):
            cells = _through(block, cells, windows=index % 3 != 2)
        return [cells.permute(0, 3, 1, 2)]

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding (1, h, w, C) without its class token."""
        grid = self.pos_embed[:, 1:].reshape(1, PRETRAINED_CELLS, PRETRAINED_CELLS, -1)
        scaled = F.interpolate(grid.permute(0, 3, 1, 2), (height, width), mode="bicubic", align_corners=False)
        return scaled.permute(0, 2, 3, 1)


def _through(block: Any, cells: Tensor, *, windows: bool) -> Tensor:
    """A block on (B, h, w, C). Windows beyond the edge are filled up with zeros after the norm, as in training."""
    height, width = cells.shape[1:3]
    seen = block.norm1(cells)
    if windows:
        parts, padded = window_partition(seen, WINDOW)
        attended = block.attn(parts.flatten(1, 2)).view(parts.shape)
        seen = window_unpartition(attended, WINDOW, padded, (height, width))
    else:
        seen = block.attn(seen.flatten(1, 2)).view(seen.shape)
    cells = cells + seen
    out: Tensor = cells + block.mlp(block.norm2(cells))
    return out


class PlainNeck(nn.Module):
    """One map (B, C, h, w) to the decoder's width, as EfficientTAM has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.d_model, self.backbone_channel_list = WIDTH, [channels]
        self.position_encoding = NoPosition()
        layers = nn.Sequential()
        layers.add_module("conv_1x1", nn.Conv2d(channels, WIDTH, 1, bias=False))
        layers.add_module("norm_0", LayerNorm2d(WIDTH))
        layers.add_module("conv_3x3", nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False))
        layers.add_module("norm_1", LayerNorm2d(WIDTH))
        self.convs = nn.ModuleList([layers])

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        features = self.convs[0](maps[0])
        return [features], [self.position_encoding(features)]


def build_light(config: str, image_size: int, decoder_arguments: dict[str, Any], path: Path | None = None) -> SAM2Base:
    """The model of a registry's `config`, in eval mode on the CPU, with the weights of a published file or random ones.

    Raises `CheckpointError` for an unknown name, an image size that does not fit, and where the file is unsafe or of
    another model.
    """
    if config not in SIZES:
        raise CheckpointError(f"one of {', '.join(SIZES)}", repr(config), "pick a light model")
    if image_size % 32:
        raise CheckpointError("an image size that is a multiple of 32", str(image_size))
    size = SIZES[config]
    model = SAM2Base(
        image_encoder=_encoder(size),
        memory_attention=None,
        memory_encoder=None,
        num_maskmem=0,
        image_size=image_size,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=size is None,
        multimask_output_in_sam=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        iou_prediction_use_sigmoid=True,
        use_multimask_token_for_obj_ptr=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        sam_mask_decoder_extra_args=decoder_arguments,
    )
    if path is not None:
        _load(model, path)
    model.eval()
    if size is None:
        reparameterize_model(model.image_encoder.trunk, inplace=True)
    return model


def _encoder(size: PlainSize | None) -> ImageEncoder:
    if size is not None:
        return ImageEncoder(PlainTrunk(size), PlainNeck(size.width), scalp=0)
    trunk = RepViTTrunk()
    neck = FpnNeck(
        position_encoding=NoPosition(),
        d_model=WIDTH,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return ImageEncoder(trunk, neck, scalp=1)


def _load(model: SAM2Base, path: Path) -> None:
    """Put a published file's weights into a model; those of video memory are passed over."""
    from usam.checkpoints.registry import load_state, read_weights

    own = {name: value for name, value in model.state_dict().items() if not name.startswith(IMAGE_PARTS)}
    theirs = {_our_name(name): value for name, value in read_weights(path).items() if name.startswith(IMAGE_PARTS)}
    load_state(model, own | theirs, path)


def _our_name(name: str) -> str:
    """A published name as timm's blocks have it: the two layers of a ViT's MLP are called otherwise."""
    if not name.startswith("image_encoder.trunk.blocks."):
        return name
    return name.replace(".mlp.layers.0.", ".mlp.fc1.").replace(".mlp.layers.1.", ".mlp.fc2.")
