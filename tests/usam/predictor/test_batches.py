"""Images that are read, encoded and decoded at once: the same embeddings, in order, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import model, picture, plain
from usam.errors import ImageError, PromptError
from usam.predictor.batches import encode_ahead
from usam.predictor.patch import patch


def predictor() -> Any:
    return patch(plain(model()))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_embeddings_are_those_of_one_image_at_a_time_in_their_order(batch: int) -> None:
    ours, own = predictor(), predictor()
    ours.checkpoint_name = own.checkpoint_name = "sam2.1_hiera_tiny"
    sizes = [(90, 130), (40, 200), (64, 64), (128, 100)]
    images = [picture(seed, hw) for seed, hw in enumerate(sizes)]
    found = list(encode_ahead(ours, [partial(np.copy, image) for image in images], batch=batch))
    assert [one.image_hw for one in found] == sizes
    assert not ours._is_image_set, "the caller's own image stays as it is"
    for image, embedding in zip(images, found, strict=True):
        own.set_image(image)
        wanted = own.embedding()
        torch.testing.assert_close(embedding.image_embed, wanted.image_embed, atol=1e-4, rtol=1e-4)
        assert [part.shape for part in embedding.high_res] == [part.shape for part in wanted.high_res]
        ours.set_embedding(embedding)
        np.testing.assert_allclose(ours.predict([[20, 20]], [1])[1], own.predict([[20, 20]], [1])[1], atol=1e-4)


def test_the_predictors_type_is_used() -> None:
    ours = predictor()
    (before,) = encode_ahead(ours, [picture])
    ours.encoder_dtype = torch.bfloat16
    (after,) = encode_ahead(ours, [picture])
    assert after.image_embed.dtype == torch.float32
    assert not torch.equal(before.image_embed, after.image_embed)


def test_no_more_images_are_read_than_the_bound_allows() -> None:
    read: list[int] = []
    taken = 0

    def images() -> Iterator[Callable[[], Any]]:
        for number in range(20):

            def read_one(number: int = number) -> Any:
                read.append(number)
                return picture(number)

            yield read_one

    for _ in encode_ahead(predictor(), images(), batch=2, threads=2, ahead=1):
        taken += 1
        assert len(read) <= taken + 2 * 3
    assert taken == len(read) == 20


def test_an_image_that_cannot_be_read_raises_when_its_turn_comes_and_no_thread_stays() -> None:
    def broken() -> Any:
        raise OSError("gone")

    before = threading.active_count()
    found = encode_ahead(predictor(), [picture, broken, picture], batch=1)
    assert next(found).image_hw == (90, 130)
    with pytest.raises(OSError, match="gone"):
        next(found)
    with pytest.raises(ImageError):
        list(encode_ahead(predictor(), [lambda: np.zeros((4, 4), np.uint8)]))
    left = encode_ahead(predictor(), [picture] * 20, batch=1)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_nothing_gives_nothing_and_bad_numbers_are_refused() -> None:
    assert list(encode_ahead(predictor(), [])) == []
    with pytest.raises(PromptError, match="from 1 on"):
        encode_ahead(predictor(), [picture], batch=0)
