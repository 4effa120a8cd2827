"""EdgeTAM and EfficientTAM: the published names of weights, trunks that compute what theirs do, masks and scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.usam.small_sam2 import picture, random_heads
from usam.checkpoints import registry as checkpoints
from usam.checkpoints.light import SIZES, PlainSize, build_light
from usam.checkpoints.registry import build_model, find
from usam.errors import CheckpointError
from usam.predictor.load import load
from usam.predictor.proposals import propose_masks
from usam.prompts import grid_points

NAMES = tuple(SIZES)
models = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "efficienttam_s" else []) for name in NAMES]
)
"""The larger of two that differ in width alone waits."""
SIDE = 256
VIDEO = {"memory_attention.norm.weight": (256,), "maskmem_tpos_enc": (7, 1, 1, 64), "no_obj_ptr": (1, 256),
         "spatial_perceiver.latents": (256, 64), "no_mem_pos_enc": (1, 1, 256)}  # fmt: skip

PUBLISHED = {
    "edgetam": {
        "image_encoder.trunk.body.stem.conv1.c.weight": (24, 3, 3, 3),
        "image_encoder.trunk.body.stem.conv1.bn.running_var": (24,),
        "image_encoder.trunk.body.stages_0.blocks.0.token_mixer.conv.bn.weight": (48,),
        "image_encoder.trunk.body.stages_0.blocks.0.token_mixer.conv1.c.weight": (48, 1, 1, 1),
        "image_encoder.trunk.body.stages_1.downsample.pre_block.channel_mixer.conv1.c.weight": (96, 48, 1, 1),
        "image_encoder.trunk.body.stages_2.blocks.13.channel_mixer.conv2.bn.bias": (192,),
        "image_encoder.neck.convs.0.conv.weight": (256, 384, 1, 1),
        "image_encoder.neck.convs.3.conv.bias": (256,),
        "sam_mask_decoder.conv_s0.weight": (32, 256, 1, 1),
        "sam_mask_decoder.pred_obj_score_head.layers.2.bias": (1,),
        "no_mem_embed": (1, 1, 256),
    },
    "efficienttam_ti": {
        "image_encoder.trunk.pos_embed": (1, 197, 192),
        "image_encoder.trunk.patch_embed.proj.weight": (192, 3, 16, 16),
        "image_encoder.trunk.blocks.0.attn.qkv.weight": (576, 192),
        "image_encoder.trunk.blocks.11.attn.proj.bias": (192,),
        "image_encoder.trunk.blocks.3.norm2.weight": (192,),
        "image_encoder.trunk.blocks.7.mlp.layers.0.weight": (768, 192),
        "image_encoder.trunk.blocks.7.mlp.layers.1.bias": (192,),
        "image_encoder.neck.convs.0.conv_1x1.weight": (256, 192, 1, 1),
        "image_encoder.neck.convs.0.norm_0.bias": (256,),
        "image_encoder.neck.convs.0.conv_3x3.weight": (256, 256, 3, 3),
        "sam_mask_decoder.obj_score_token.weight": (1, 256),
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
    },
}
"""Names and shapes as the published files have them, written down from what public programs read of those files."""
PUBLISHED["efficienttam_s"] = {
    name: tuple(2 * side if side in (192, 576, 768) else side for side in shape)
    for name, shape in PUBLISHED["efficienttam_ti"].items()
}


@cache
def published_state(name: str) -> dict[str, Tensor]:
    """Random weights under the published names, video memory included."""
    import usam.checkpoints.light as light

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(light, "reparameterize_model", lambda *_, **__: None)
        torch.manual_seed(0)
        model = build_light(name, SIDE, {})
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith(light.IMAGE_PARTS):
            key = key.replace(".mlp.fc1.", ".mlp.layers.0.").replace(".mlp.fc2.", ".mlp.layers.1.")
            noise = 0.02 * torch.randn(value.shape) if value.is_floating_point() else torch.zeros(value.shape)
            state[key] = value + noise.abs() if key.endswith("running_var") else value + noise.to(value.dtype)
    return state | {key: torch.randn(shape) for key, shape in VIDEO.items()}


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Tensor]]:
    """Puts a published state, with changes, where the registry looks for the file, and makes it the right one."""

    def put(name: str, **changes: Tensor | None) -> dict[str, Tensor]:
        monkeypatch.setenv("USAM_HOME", str(tmp_path))
        state = {key: value for key, value in (published_state(name) | changes).items() if value is not None}
        path = checkpoints.checkpoint_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": state}, path)
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        text = (checkpoints.models_dir() / "registry.toml").read_text("utf-8")
        (folder / "registry.toml").write_text(text.replace(find(name).sha256, _sha256(path)), "utf-8")
        monkeypatch.setenv("USAM_MODELS", str(folder))
        return state

    return put


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@models
def test_the_published_names_are_those_that_are_read(name: str, fetched: Any) -> None:
    state = fetched(name)
    for key, shape in PUBLISHED[name].items():
        assert tuple(state[key].shape) == shape, key
    model: Any = build_model(name, image_size=SIDE)
    torch.testing.assert_close(model.no_mem_embed.data, state["no_mem_embed"])
    token = "sam_mask_decoder.iou_token.weight"
    torch.testing.assert_close(model.state_dict()[token], state[token])


def test_a_file_of_another_model_is_refused_by_the_first_difference(fetched: Any) -> None:
    fetched("efficienttam_ti", **{"image_encoder.trunk.blocks.7.mlp.layers.0.weight": None})
    with pytest.raises(CheckpointError, match=r"blocks\.7\.mlp\.fc1\.weight"):
        build_model("efficienttam_ti", image_size=SIDE)
    fetched("edgetam", **{"image_encoder.trunk.body.stages_4.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="stages_4"):
        build_model("edgetam", image_size=SIDE)


def windowed(x: Tensor, attend: Callable[[Tensor], Tensor], side: int = 14) -> Tensor:
    """Attention window by window, each filled up with zeros, for (h, w, C)."""
    height, width, channels = x.shape
    out = torch.zeros_like(x)
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = x[top : top + side, left : left + side]
            full = torch.zeros(side, side, channels)
            full[: part.shape[0], : part.shape[1]] = part
            made = attend(full.view(-1, channels)).view(side, side, channels)
            out[top : top + side, left : left + side] = made[: part.shape[0], : part.shape[1]]
    return out


def test_the_plain_trunk_computes_what_the_paper_says(fetched: Any) -> None:
    state = {key.removeprefix("image_encoder.trunk."): value for key, value in fetched("efficienttam_ti").items()}
    size = SIZES["efficienttam_ti"]
    assert size == PlainSize(192, 3)
    model: Any = build_model("efficienttam_ti", image_size=SIDE)
    image = torch.randn(1, 3, SIDE, SIDE)
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)[0].permute(1, 2, 0)
    grid = state["pos_embed"][0, 1:].T.reshape(1, 192, 14, 14)
    x = x + F.interpolate(grid, (16, 16), mode="bicubic")[0].permute(1, 2, 0)

    def normed(x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, (192,), state[f"{at}.weight"], state[f"{at}.bias"], 1e-6)

    for index in range(12):
        at = f"blocks.{index}"

        def attend(tokens: Tensor, at: str = at) -> Tensor:
            qkv = F.linear(tokens, state[f"{at}.attn.qkv.weight"], state[f"{at}.attn.qkv.bias"])
            query, key, value = qkv.view(-1, 3, 3, 64).permute(1, 2, 0, 3)
            seen = ((query @ key.transpose(1, 2)) / 8).softmax(-1) @ value
            return F.linear(seen.transpose(0, 1).reshape(-1, 192), state[f"{at}.attn.proj.weight"],
                            state[f"{at}.attn.proj.bias"])  # fmt: skip

        seen = normed(x, f"{at}.norm1")
        whole = index in (2, 5, 8, 11)
        x = x + (attend(seen.reshape(-1, 192)).view(16, 16, 192) if whole else windowed(seen, attend))
        hidden = F.linear(
            normed(x, f"{at}.norm2"), state[f"{at}.mlp.layers.0.weight"], state[f"{at}.mlp.layers.0.bias"]
        )
        x = x + F.linear(F.gelu(hidden), state[f"{at}.mlp.layers.1.weight"], state[f"{at}.mlp.layers.1.bias"])
    with torch.no_grad():
        (made,) = model.image_encoder.trunk(image)
    torch.testing.assert_close(made[0].permute(1, 2, 0), x, atol=1e-4, rtol=1e-4)


def test_repvit_with_its_branches_joined_computes_the_same(fetched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched("edgetam")
    joined: Any = build_model("edgetam", image_size=SIDE)
    monkeypatch.setattr("usam.checkpoints.light.reparameterize_model", lambda *_, **__: None)
    apart: Any = build_model("edgetam", image_size=SIDE)
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        pairs = zip(
            joined.forward_image(image)["backbone_fpn"], apart.forward_image(image)["backbone_fpn"], strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert len(joined.state_dict()) < len(apart.state_dict())


@models
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_masks_scores_and_proposals_come_as_from_any_other(name: str, dtype: torch.dtype | None) -> None:
    predictor = load(name, heads=None, image_size=SIDE, weights=False)
    predictor.set_heads(random_heads(256, checkpoint=name))
    predictor.encoder_dtype, predictor.keep_stages = dtype, True
    predictor.set_image(picture())
    masks, ious, _, scores = predictor.predict([[50, 40]], [1])
    assert masks.shape == (3, *picture().shape[:2])
    assert scores["task_gap"].shape == (3,)
    quick, again = predictor.predict_scores([[50, 40]], [1])
    np.testing.assert_allclose(quick[0], ious, atol=1e-4)
    np.testing.assert_allclose(again["task_gap"][0], scores["task_gap"], atol=1e-3)
    embedding = predictor.embedding()
    assert len(embedding.high_res) == (2 if name == "edgetam" else 0)
    assert len(embedding.stages) == 3
    other = load(name, heads=None, image_size=SIDE, weights=False)
    with pytest.raises(CheckpointError):
        embedding.check_fits(other.model, "nano-m")
    found = propose_masks(predictor, grid_points(picture().shape[:2], 3), max_masks=5)
    assert found.masks.shape[1:] == picture().shape[:2]


def test_the_registry_names_their_licence_source_and_hash() -> None:
    for name in NAMES:
        checkpoint = find(name)
        assert checkpoint.licence == "Apache-2.0"
        assert len(checkpoint.sha256) == 64
        assert checkpoint.bytes
        assert checkpoint.url.startswith("https://")
    with pytest.raises(CheckpointError, match="multiple of 32"):
        build_light("edgetam", 100, {})
    with pytest.raises(CheckpointError, match="one of edgetam"):
        build_light("other", 256, {})
