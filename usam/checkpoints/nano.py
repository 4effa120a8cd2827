"""The nano family: SAM 2's prompt encoder, mask decoder and neck on an EfficientNet-Lite trunk.

Legend: B images, P prompts, K points of a prompt, D token width, S image side in pixels (square),
E = S / 16 the side of the image embedding.

A nano model is a `SAM2Base` and works with `SAM2ImagePredictor` once the predictor's feature sizes are set
(`feature_sizes`). It has no video memory. Three things differ from SAM 2, all for the sake of little data: the
trunk, a prompt encoder that also draws clicks and boxes as maps added to the dense embedding, and masks that are
smoothed (`smooth_decoder`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.nn import functional as F

from usam.checkpoints.nano_trunk import LiteTrunk, imagenet_state
from usam.checkpoints.smooth_decoder import SmoothMaskDecoder
from usam.errors import CheckpointError
from usam.files import replacing

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class NanoSize:
    """What sets one member of the family apart."""

    name: str
    trunk: str
    image_size: int
    width: int
    mlp_dim: int = 512
    num_heads: int = 4


SIZES = {
    "nano-s": NanoSize("nano-s", "tf_efficientnet_lite0", 256, 128),
    "nano-m": NanoSize("nano-m", "tf_efficientnet_lite0", 448, 128),
    "nano-l": NanoSize("nano-l", "tf_efficientnet_lite2", 576, 128),
}


class MapPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """SAM 2's prompt encoder, which also draws the prompt on the embedding's grid.

    Seven maps of (E, E), each in [0, 1]: positive clicks and negative clicks as Gaussians, narrow (one cell) and
    wide (a sixth of the side); the share of each cell inside the box; the same outside of it (zero without a box); a
    Gaussian as wide as the box. Two 1x1 convolutions turn them into D channels, added to the dense embedding.
    """

    MAPS = 7

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        width = self.embed_dim
        self.prompt_maps = nn.Sequential(
            nn.Conv2d(self.MAPS, width // 2, 1), nn.GELU(), nn.Conv2d(width // 2, width, 1)
        )

    def draw(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(P, K, 2) points in pixels of the model's input, (P, K) labels (1, 0, 2, 3, -1) -> (P, 7, E, E)."""
        side_px, cells = float(self.input_image_size[0]), self.image_embedding_size[0]
        points = (coords.float() + 0.5) / side_px * cells
        centres = torch.arange(cells, device=coords.device, dtype=torch.float32) + 0.5
        offset_x = centres[None, None, :] - points[..., 0:1]
        offset_y = centres[None, None, :] - points[..., 1:2]
        maps = []
        for label in (1, 0):
            wanted = (labels == label).float()[..., None]
            for sigma in (1.0, cells / 6.0):
                gauss_x = torch.exp(-0.5 * (offset_x / sigma) ** 2) * wanted
                gauss_y = torch.exp(-0.5 * (offset_y / sigma) ** 2)
                maps.append((gauss_y[..., :, None] * gauss_x[..., None, :]).amax(1))
        low = _corner(points, labels == 2)
        high = _corner(points, labels == 3)
        boxed = ((labels == 2).any(1) & (labels == 3).any(1)).float()[:, None, None]
        inside_x = _coverage(low[:, 0:1], high[:, 0:1], centres)
        inside_y = _coverage(low[:, 1:2], high[:, 1:2], centres)
        inside = inside_y[:, :, None] * inside_x[:, None, :] * boxed
        half = ((high - low) / 2).clamp(min=0.5)
        middle = (high + low) / 2
        bell_x = torch.exp(-0.5 * ((centres[None] - middle[:, 0:1]) / half[:, 0:1]) ** 2 * 2)
        bell_y = torch.exp(-0.5 * ((centres[None] - middle[:, 1:2]) / half[:, 1:2]) ** 2 * 2)
        maps += [inside, boxed - inside, bell_y[:, :, None] * bell_x[:, None, :] * boxed]
        return torch.stack(maps, 1)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As SAM 2's: sparse (P, K + pad, D) and dense (P, D, E, E) embeddings."""
        sparse, dense = super().forward(points, boxes, masks)
        coords, labels = [], []
        if points is not None:
            coords.append(points[0])
            labels.append(points[1])
        if boxes is not None:
            coords.append(boxes.reshape(-1, 2, 2))
            labels.append(torch.tensor([[2, 3]], device=boxes.device).expand(boxes.shape[0], 2))
        if coords:
            drawn = self.draw(torch.cat(coords, 1), torch.cat([part.to(labels[0]) for part in labels], 1))
            dense = dense + self.prompt_maps(drawn)
        return sparse, dense


def _corner(points: Tensor, wanted: Tensor) -> Tensor:
    """The first point of (P, K, 2) that `wanted` (P, K) marks, (P, 2); zeros where none is."""
    weight = wanted.float() * (wanted.cumsum(1) == 1).float()
    return (points * weight[..., None]).sum(1)


def _coverage(low: Tensor, high: Tensor, centres: Tensor) -> Tensor:
    """Share of each cell (C,) between `low` and `high` (P, 1): (P, C) in [0, 1]."""
    covered = torch.minimum(high, centres[None] + 0.5) - torch.maximum(low, centres[None] - 0.5)
    return covered.clamp(0, 1)


class PixelTranspose(nn.ConvTranspose2d):
    """A transposed convolution of kernel and stride 2, as one matrix product: its cells do not overlap.

    The same parameters and result; on a CPU its gradient in half precision takes a tenth of the time.
    """

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(P, C, h, w) -> (P, C', 2h, 2w)."""
        count, channels, height, width = features.shape
        out = self.out_channels
        weight = self.weight.permute(2, 3, 1, 0).reshape(4 * out, channels)
        cells = F.linear(features.permute(0, 2, 3, 1), weight).view(count, height, width, 2, 2, out)
        spread = cells.permute(0, 5, 1, 3, 2, 4).reshape(count, out, 2 * height, 2 * width)
        return spread if self.bias is None else spread + self.bias.to(spread.dtype).view(1, -1, 1, 1)


class NoPosition(nn.Module):
    """Stands for the neck's position code, which only video memory reads: zeros that take no memory."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(()).expand(features.shape)


class NanoSAM(SAM2Base):  # type: ignore[misc]
    """A `SAM2Base` whose heads have the family's width. Build it with `build_nano`."""

    def __init__(self, size: NanoSize, image_encoder: ImageEncoder) -> None:
        self.nano_size = size
        super().__init__(
            image_encoder=image_encoder,
            memory_attention=None,
            memory_encoder=None,
            num_maskmem=0,
            image_size=size.image_size,
            directly_add_no_mem_embed=True,
            use_high_res_features_in_sam=True,
            multimask_output_in_sam=True,
            multimask_min_pt_num=0,
            multimask_max_pt_num=1,
            iou_prediction_use_sigmoid=True,
        )

    def _build_sam_heads(self) -> None:
        size = self.nano_size
        self.sam_prompt_embed_dim = self.hidden_dim
        self.sam_image_embedding_size = cells = self.image_size // self.backbone_stride
        self.sam_prompt_encoder = MapPromptEncoder(
            embed_dim=self.hidden_dim,
            image_embedding_size=(cells, cells),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = SmoothMaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=self.hidden_dim, mlp_dim=size.mlp_dim, num_heads=size.num_heads
            ),
            transformer_dim=self.hidden_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
        )
        upscaling = self.sam_mask_decoder.output_upscaling
        for index in (0, 3):
            plain = upscaling[index]
            upscaling[index] = PixelTranspose(plain.in_channels, plain.out_channels, 2, 2)
        self.obj_ptr_proj = nn.Identity()
        self.obj_ptr_tpos_proj = nn.Identity()


def build_nano(name: str) -> NanoSAM:
    """An untrained model of the family, in eval mode, on the CPU. Raises `CheckpointError` for an unknown name."""
    size = SIZES.get(name)
    if size is None:
        raise CheckpointError(f"one of {', '.join(SIZES)}", repr(name), "pick a nano model")
    return build_size(size)


def build_size(size: NanoSize, pretrained_trunk: bool = False) -> NanoSAM:
    """As `build_nano`, from a size of one's own (S a multiple of 32).

    `pretrained_trunk`: start the trunk from ImageNet weights (see `imagenet_state`).
    """
    trunk = LiteTrunk(size.trunk, imagenet_state(size.trunk) if pretrained_trunk else None)
    neck = FpnNeck(
        position_encoding=NoPosition(),
        d_model=size.width,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    model = NanoSAM(size, ImageEncoder(trunk, neck, scalp=1))
    align_attention(model)
    model.eval()
    return model


def align_attention(model: NanoSAM) -> None:
    """Start query and key projections of every cross-attention equal and orthogonal.

    A token then attends where the image resembles it from the first step on; with random projections the decoder
    needs several hundred steps to find out where a click is.
    """
    transformer = model.sam_mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        nn.init.orthogonal_(attention.q_proj.weight)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
        nn.init.zeros_(attention.q_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)


def feature_sizes(image_size: int) -> list[tuple[int, int]]:
    """What `SAM2ImagePredictor._bb_feat_sizes` must be for an input side of `image_size` pixels."""
    return [(image_size // stride, image_size // stride) for stride in STRIDES[:3]]


@dataclass(frozen=True)
class Embedding:
    """What the decoder reads: `image` (B, D, E, E), `high_res` (B, D / 8, 4E, 4E) and (B, D / 4, 2E, 2E)."""

    image: Tensor
    high_res: list[Tensor]

    def leaves(self) -> Embedding:
        """The same values cut off from the trunk's graph, to gather gradients in until all prompts are done."""
        parts = [part.detach().requires_grad_() for part in (self.image, *self.high_res)]
        return Embedding(parts[0], parts[1:])


def encode_images(model: NanoSAM, images: Tensor) -> Embedding:
    """(B, 3, S, S) normalised images -> what the decoder reads."""
    fpn = model.forward_image(images)["backbone_fpn"]
    return Embedding(fpn[2] + model.no_mem_embed.view(1, -1, 1, 1), [fpn[0], fpn[1]])


def decode(
    model: NanoSAM, seen: Embedding, owner: Tensor, points: Tensor, labels: Tensor, mask_input: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All four masks of each prompt, the single one first: logits (P, 4, 4E, 4E) and predicted IoU (P, 4) in [0, 1].

    `owner` (P,) says which image of `seen` each prompt is of; `points` (P, K, 2) in pixels of the model's input;
    `labels` (P, K) 1, 0, 2 and 3 for box corners, -1 for none; `mask_input` (P, 1, 4E, 4E) logits or None.
    """
    sparse, dense = model.sam_prompt_encoder((points, labels), None, mask_input)
    logits, ious, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=seen.image[owner],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[part[owner] for part in seen.high_res],
    )
    return logits, ious


def save_nano(model: NanoSAM, path: Path, metadata: dict[str, str] | None = None) -> str:
    """Write the weights as float16 safetensors, whole or not at all; returns the file's SHA-256."""
    from safetensors.torch import save

    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError("finite weights", f"infinities in {name}", "train again with a lower rate")
    data = save(tensors, {"model": model.nano_size.name, **(metadata or {})})
    path = Path(path)
    with replacing(path) as partial:
        partial.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def load_nano(name: str, path: Path | str) -> NanoSAM:
    """The model `name` with the weights of a safetensors file, float32, eval mode.

    Raises `CheckpointError` where the file is missing, unreadable or of another size.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"the weights of {name}", f"no file {path.name}", "train or copy them")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError("a safetensors file", f"{path.name}: {error}", "copy it again") from error
    model = build_nano(name)
    try:
        model.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"weights of {name}", f"{path.name}: {str(error).splitlines()[1].strip()}", "use the matching file"
        ) from error
    return model


@torch.no_grad()
def blend_weights(model: NanoSAM, other: NanoSAM, share: float) -> None:
    """Make every weight of `model` a mixture in place: `share` (0..1) its own, the rest that of `other`.

    Weights that were trained on and the ones they began from lie in one valley: between them a model keeps what it
    could (WiSE-FT, arXiv 2109.01903).
    """
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.mul_(share).add_(theirs[name], alpha=1 - share)
