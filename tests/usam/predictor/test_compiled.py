"""An encoder by another runtime: held to torch's maps before it is used, and torch where it is not to be had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import picture
from usam.predictor.compiled import CompiledEncoder
from usam.predictor.load import load
from usam.predictor.patch import unpatch_sam2


def by_torch(maps: Any, example: Any, threads: int) -> Any:
    return lambda images: [part.detach().numpy() for part in maps(images)]


def off(maps: Any, example: Any, threads: int) -> Any:
    return lambda images: [1.01 * part.detach().numpy() for part in maps(images)]


def missing(maps: Any, example: Any, threads: int) -> Any:
    raise ImportError("openvino")


def broken(maps: Any, example: Any, threads: int) -> Any:
    raise RuntimeError("an operation is not known\nand more")


def test_it_gives_the_same_embedding_and_stages() -> None:
    ours, own = load("nano-s", heads=None), load("nano-s", heads=None)
    ours.keep_stages = own.keep_stages = True
    calls: list[int] = []

    def counted(maps: Any, example: Any, threads: int) -> Any:
        run = by_torch(maps, example, threads)
        return lambda images: calls.append(1) or run(images)

    ours.compiled, why_not = CompiledEncoder.of(ours.model.image_encoder, 256, 1, counted)
    assert why_not == ""
    before = len(calls)
    for predictor in (ours, own):
        predictor.set_image(picture())
    assert len(calls) == before + 1
    got, wanted = ours.embedding(), own.embedding()
    for mine, theirs in zip(
        (got.image_embed, *got.high_res, *got.stages),
        (wanted.image_embed, *wanted.high_res, *wanted.stages),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(ours.predict([[50, 40]], [1])[0], own.predict([[50, 40]], [1])[0])
    ours.encoder_dtype = torch.bfloat16
    ours.set_image(picture())
    assert len(calls) == before + 1, "another type is torch's"
    assert "compiled" not in vars(unpatch_sam2(ours))


@pytest.mark.parametrize(
    ("compile_maps", "why"),
    [
        (off, "differ from torch's by 0.01"),
        (missing, "openvino is not installed"),
        (broken, "an operation is not known"),
    ],
)
def test_torch_stays_with_a_word_where_it_is_not_the_same_or_not_there(compile_maps: Any, why: str) -> None:
    encoder = load("nano-s", heads=None).model.image_encoder
    compiled, why_not = CompiledEncoder.of(encoder, 256, 1, compile_maps)
    assert compiled is None
    assert why in why_not
    assert "\n" not in why_not


@pytest.mark.filterwarnings("default")
def test_openvino_itself_where_it_is_installed() -> None:
    pytest.importorskip("openvino")
    compiled, why_not = CompiledEncoder.of(load("nano-s", heads=None).model.image_encoder, 256, 1)
    assert compiled is not None, why_not
