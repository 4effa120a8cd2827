"""What a linear head says of images left out: what one says that never saw them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from usam.errors import TrainingError
from usam.objects.linear import FOLDS, fit_linear, softmax
from usam.training.split import group_folds

Floats = npt.NDArray[np.float32]


def pictures() -> tuple[Floats, npt.NDArray[np.int64], list[str]]:
    """12 objects (N, F) of each of 8 images, all alike a little; the first of four images is wanted."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(8), 12)
    target = ((np.arange(96) % 12 == 0) & (image < 4)).astype(np.int64)
    features = rng.normal(0, 1, (96, 20)) + rng.normal(0, 2, (8, 20))[image]
    return features.astype(np.float32), target, [f"image {number}" for number in image]


def test_images_left_out_have_no_say_in_the_centre_either() -> None:
    features, target, images = pictures()
    others, others_of = np.concatenate([features, features + 1]), images * 2
    head, left_out = fit_linear(
        features, target, images, 2, background=others, background_images=others_of, give_back=False
    )
    assert head.kind == "prototypes"
    fold = group_folds(np.array(images), FOLDS, 0)
    for number in range(FOLDS):
        out, beside = fold == number, np.tile(fold, 2) != number
        never_seen, _ = fit_linear(
            features[~out],
            target[~out],
            [name for name, without in zip(images, out, strict=True) if not without],
            2,
            background=others[beside],
            give_back=False,
        )
        expected = softmax(never_seen.logits(features[out]) / head.temperature)
        np.testing.assert_allclose(left_out[out], expected, atol=1e-5)


def test_each_background_object_is_of_an_image() -> None:
    features, target, images = pictures()
    with pytest.raises(TrainingError, match="an image of each"):
        fit_linear(features, target, images, 2, background=features, background_images=images[:3])
