"""Encoding in bfloat16, and the encoder without what is not read."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sam2.sam2_image_predictor import SAM2ImagePredictor

from tests.usam.small_sam2 import model, picture, plain
from usam.predictor import encoder as encoder_module
from usam.predictor.encoder import LeanEncoder, _attend, encoding, fastest_dtype
from usam.predictor.patch import patch_sam2


@pytest.mark.parametrize("side", [128, 256])
def test_the_lean_encoder_is_the_encoder(side: int) -> None:
    encoder = model().image_encoder
    assert LeanEncoder.suits(encoder)
    lean, image = LeanEncoder(encoder), torch.randn(1, 3, side, side)
    with torch.no_grad():
        for _ in range(2):
            wanted, got = encoder(image)["backbone_fpn"], lean(image)["backbone_fpn"]
            for ours, theirs in zip(got, wanted, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_new_weights_reach_the_lean_encoder() -> None:
    encoder = copy.deepcopy(model().image_encoder)
    lean, image = LeanEncoder(encoder), torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        before = lean(image)["vision_features"]
        encoder.trunk.pos_embed.add_(1)
        after = lean(image)["vision_features"]
        torch.testing.assert_close(after, encoder(image)["vision_features"], atol=1e-5, rtol=0)
    assert not torch.allclose(before, after)


def test_hooked_or_other_encoders_are_left_alone() -> None:
    encoder = model().image_encoder
    with encoder.neck.register_forward_hook(lambda *_: None):
        assert not LeanEncoder.suits(encoder)
    assert not LeanEncoder.suits(torch.nn.Identity())


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 700, 24), (5, 1, 16, 96)])
def test_attention_is_attention(shape: tuple[int, ...], amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []

    def in_blocks(*qkv: torch.Tensor) -> torch.Tensor:
        blocks.append(len(qkv))
        return _attend(*qkv)

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(encoder_module, "_attend", in_blocks)
    torch.manual_seed(0)
    batch, heads, count, width = shape
    query, key, value = torch.randn(3, batch, count, heads, width).bfloat16().transpose(2, 3)
    wanted = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    calls = []
    with encoding(torch.device("cpu"), torch.bfloat16):
        calls.append(F.scaled_dot_product_attention(query, key, value))
        calls.append(F.scaled_dot_product_attention(query, key, value, dropout_p=0.0))
    assert calls[0].dtype == torch.bfloat16
    assert torch.equal(*calls), "memory attention says that it drops nothing"
    assert len(blocks) == (0 if amx else 2), "torch's own kernel is the faster one where there is AMX"
    torch.testing.assert_close(calls[0].float(), wanted, atol=0.02, rtol=0.02)
    masked = torch.zeros(count, count, dtype=torch.bool).fill_diagonal_(True)
    with encoding(torch.device("cpu"), torch.bfloat16):
        diagonal = F.scaled_dot_product_attention(query, key, value, attn_mask=masked)
    torch.testing.assert_close(diagonal, value)


def test_float32_changes_nothing() -> None:
    with encoding(torch.device("cpu"), None), encoding(torch.device("cpu"), torch.float32):
        assert not torch.is_autocast_enabled("cpu")


def relative(got: Any, wanted: Any) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("batch", [False, True])
def test_a_predictor_encodes_in_bfloat16_and_keeps_float32(batch: bool) -> None:
    ours, theirs = patch_sam2(SAM2ImagePredictor(model())), plain()
    images = [picture(0), picture(1)]
    ours.encoder_dtype = torch.bfloat16
    for predictor in (ours, theirs):
        if batch:
            predictor.set_image_batch(images)
        else:
            predictor.set_image(images[0])
    assert ours._orig_hw == theirs._orig_hw
    assert ours._is_batch is batch
    pairs = zip(ours._features["high_res_feats"], theirs._features["high_res_feats"], strict=True)
    for got, wanted in [(ours._features["image_embed"], theirs._features["image_embed"]), *pairs]:
        assert got.dtype == torch.float32
        assert 0 < relative(got, wanted) < 0.05
    if not batch:
        masks, ious, *_ = ours.predict([[50, 60]], [1])
        wanted_masks, wanted_ious, _ = theirs.predict(np.array([[50, 60]]), np.array([1]))
        np.testing.assert_allclose(ious, wanted_ious, atol=0.02)
        assert (masks == wanted_masks).mean() > 0.95
        ours.encoder_dtype = None
        ours.set_image(images[0])
        assert torch.equal(ours._features["image_embed"], theirs._features["image_embed"])


def test_the_fastest_type_is_a_safe_one() -> None:
    assert fastest_dtype("cpu") in (torch.bfloat16, torch.float32)
    assert fastest_dtype("meta") == torch.float32
