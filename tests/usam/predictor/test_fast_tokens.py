"""The rearranged transformer and upscaling against SAM 2's own modules on the same input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.usam.small_sam2 import model
from usam.predictor.decoder import AttributeOverride, FirstLayer, ImageShare, TokenImage, decode, flatten_image, two_way
from usam.predictor.fast_masks import MaskPath, _places
from usam.predictor.fast_tokens import MANY_TOKENS, chunk_size, run_tokens, token_pass


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def inputs(prompts: int = 3, points: int = 2) -> dict[str, Any]:
    """Arguments of the mask decoder of the 128 px model."""
    base = model()
    coords, labels = 128 * torch.rand(prompts, points, 2), torch.ones(prompts, points, dtype=torch.int32)
    sparse, dense = base.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
    return {
        "image_embeddings": torch.randn(1, 256, 8, 8),
        "image_pe": base.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
        "multimask_output": True,
        "repeat_image": prompts > 1,
        "high_res_features": [torch.randn(1, 32, 32, 32), torch.randn(1, 64, 16, 16)],
    }


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("prompts", [1, 4])
def test_the_token_pass_is_the_two_way_transformer(prompts: int, shared: bool) -> None:
    transformer = model().sam_mask_decoder.transformer
    image, pe, tokens = torch.randn(1, 256, 8, 8), torch.randn(1, 256, 8, 8), torch.randn(prompts, 9, 256)
    wanted = transformer(image.expand(prompts, -1, -1, -1), pe.expand(prompts, -1, -1, -1), tokens)
    keys, places = flatten_image(image).contiguous(), flatten_image(pe).contiguous()
    first = FirstLayer.of(transformer.layers[0], keys, places) if shared else None
    got = token_pass(transformer, TokenImage(keys, places, first), tokens)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_each_prompt_may_have_its_own_image_tokens() -> None:
    transformer = model().sam_mask_decoder.transformer
    image, pe, tokens = torch.randn(3, 256, 8, 8), torch.randn(1, 256, 8, 8), torch.randn(3, 7, 256)
    wanted = transformer(image, pe.expand(3, -1, -1, -1), tokens)
    got = token_pass(transformer, TokenImage(flatten_image(image), flatten_image(pe)), tokens)
    torch.testing.assert_close(got[0], wanted[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("known", [False, True])
def test_two_way_is_the_module_bit_for_bit(known: bool) -> None:
    transformer = model().sam_mask_decoder.transformer
    image, pe, tokens = torch.randn(1, 256, 8, 8), torch.randn(1, 256, 8, 8), torch.randn(1, 9, 256)
    share = ImageShare(pe)
    if known:
        two_way(transformer, image, pe, torch.randn(1, 5, 256), share)
        assert share.first_layer is not None
    wanted = transformer(image, pe, tokens)
    for ours, theirs in zip(two_way(transformer, image, pe, tokens, share), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_a_prompt_of_many_tokens_goes_through_the_module() -> None:
    decoder, given = model().sam_mask_decoder, inputs(2, MANY_TOKENS)
    share = ImageShare(given["image_pe"])
    hidden, _ = run_tokens(
        decoder,
        given["image_embeddings"],
        given["sparse_prompt_embeddings"],
        given["dense_prompt_embeddings"],
        share,
        True,
    )
    wanted = decode(decoder, given)
    assert torch.equal(hidden[:, 1], wanted.iou_token)
    assert share.flat is None


def test_masks_made_from_tokens_are_the_decoders() -> None:
    decoder, given = model().sam_mask_decoder, inputs()
    caught: list[Any] = []

    def transformer(*args: Any) -> Any:
        caught.append(decoder.transformer(*args))
        return caught[0]

    masks, *_ = AttributeOverride(decoder, transformer=transformer)(**given)
    hidden, image_tokens = caught[0]
    path = MaskPath(decoder, given["high_res_features"])
    got = path.whole(image_tokens, path.weights(hidden[:, 2:6], (1, 2, 3)))
    torch.testing.assert_close(got, masks, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        path.whole(image_tokens, path.weights(hidden[:, 2:6], (2,))), masks[:, 1:2], atol=1e-5, rtol=0
    )
    sampled = path.sampled(image_tokens, path.weights(hidden[:, 2:6], (1, 2, 3)))
    first, second = (place.view(8, 8) for place in _places(8, torch.device("cpu")))
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    rows, columns = 4 * rows + 2 * (first // 2) + second // 2, 4 * columns + 2 * (first % 2) + second % 2
    torch.testing.assert_close(sampled, masks[:, :, rows, columns], atol=1e-5, rtol=0)
    assert len({(int(r) % 4, int(c) % 4) for r, c in zip(rows.flatten(), columns.flatten(), strict=True)}) == 16


def test_a_stand_in_leaves_its_target_alone() -> None:
    decoder, given = model().sam_mask_decoder, inputs(1)
    before = decoder.transformer
    stand_in = AttributeOverride(decoder, transformer=lambda *_: (torch.zeros(1, 9, 256), torch.zeros(1, 64, 256)))
    masks, *_ = stand_in(**given)
    assert decoder.transformer is before
    assert not torch.equal(masks, decoder(**given)[0])


def test_a_chunk_holds_at_least_one_prompt() -> None:
    cpu = torch.device("cpu")
    assert chunk_size(4096, 256, cpu) == 4
    assert chunk_size(256, 128, cpu) == 128
    assert chunk_size(10**9, 256, cpu) == 1
