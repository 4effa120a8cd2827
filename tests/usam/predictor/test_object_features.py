"""Object features: averages under a mask, from the forward pass that there is anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import picture, plain
from usam.errors import ImageError, MaskError
from usam.predictor.object_features import (
    SHAPE_NAMES,
    cell_shares,
    describe_shapes,
    features_version,
    pool_stages,
)
from usam.predictor.patch import patch_sam2


def test_a_feature_is_the_mean_of_the_cells_under_the_mask() -> None:
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    coarse = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    masks = np.zeros((2, 8, 12), bool)
    masks[0, :2, :3] = True  # exactly the first of 4 x 4 cells
    masks[1, :, 6:] = True  # the right half
    pooled = pool_stages((fine[0], coarse[0]), masks)
    assert pooled.dtype == np.float16
    np.testing.assert_allclose(pooled, [[0, 10], [8.5, 30]])


def test_a_mask_smaller_than_a_cell_takes_that_cell() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 63, 63] = True
    shares = cell_shares(mask, 4)
    assert shares[0, -1] == pytest.approx(1)
    assert shares.sum() == pytest.approx(1)


def test_what_cannot_be_pooled_is_said() -> None:
    stages = (torch.zeros(3, 4, 4),)
    with pytest.raises(ImageError, match="keep_stages"):
        pool_stages((), np.ones((1, 4, 4), bool))
    with pytest.raises(MaskError, match="mask 1 is empty"):
        pool_stages(stages, np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)]))
    assert pool_stages(stages, np.zeros((0, 4, 4), bool)).shape == (0, 3)


def test_the_version_names_checkpoint_and_maps() -> None:
    stages = (torch.zeros(3, 8, 8), torch.zeros(5, 4, 4))
    assert features_version("nano-m", stages) == "object-features-2/nano-m/3x8+5x4"


def test_shapes_tell_place_size_border_and_stability() -> None:
    logits = np.full((3, 10, 20), -5.0, np.float32)
    logits[0, 2:6, 4:8] = 5.0
    logits[1, :, 0] = 0.5  # changes at once when the threshold does
    rows = describe_shapes(logits, np.array([0.9, 0.4, 0.0]))
    told = dict(zip(SHAPE_NAMES, rows[0], strict=True))
    assert told["x"] == pytest.approx(0.3)
    assert told["y"] == pytest.approx(0.4)
    assert told["size"] == pytest.approx(np.sqrt(16 / 200))
    assert told["fill"] == told["stability"] == 1
    assert told["samscore"] == pytest.approx(0.9)
    edge = dict(zip(SHAPE_NAMES, rows[1], strict=True))
    assert edge["at_left"] == 1
    assert edge["stability"] == 0
    assert not rows[2].any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_image_set_with_its_stages_is_encoded_as_without(dtype: torch.dtype | None) -> None:
    image = picture()
    predictor = patch_sam2(plain(), None)
    predictor.encoder_dtype = dtype
    predictor.set_image(image)
    without = predictor.embedding()
    assert without.stages == ()
    predictor.keep_stages = True
    predictor.set_image(image)
    kept = predictor.embedding()
    assert torch.equal(without.image_embed, kept.image_embed)
    assert [len(stage) for stage in kept.stages] == [112, 192, 320]
    assert kept.nbytes > without.nbytes
    predictor.set_embedding(without)
    assert predictor.embedding().stages == ()
    predictor.set_embedding(kept)
    assert predictor.embedding().stages is kept.stages
