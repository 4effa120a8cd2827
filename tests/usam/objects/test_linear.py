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
    known, names = np.concatenate([features, features + 1]), np.array(images * 2)
    head, left_out = fit_linear(known, target, names.tolist(), 2, rows=range(96), give_back=False)
    assert head.kind == "prototypes"
    fold = group_folds(np.array(images), FOLDS, 0)
    for number in range(FOLDS):
        out, beside = fold == number, np.tile(fold, 2) != number
        never_seen, _ = fit_linear(
            known[beside],
            target[~out],
            names[beside].tolist(),
            2,
            rows=range(int((~out).sum())),
            give_back=False,
        )
        expected = softmax(never_seen.logits(features[out]) / head.temperature)
        np.testing.assert_allclose(left_out[out], expected, atol=1e-5)


def test_what_teaches_nothing_has_a_say_in_the_centre_and_each_label_one_more() -> None:
    features, _, images = pictures()
    head, left_out = fit_linear(features, np.array([0, 1, 1]), images, 2, rows=[0, 0, 40])
    np.testing.assert_allclose(head.mean, np.concatenate([features[[0, 0, 40]], features]).mean(0), atol=1e-6)
    assert left_out.shape == (3, 2)
    assert head.examples.tolist() == [1, 2]


@pytest.mark.parametrize(("rows", "images"), [(range(5), 96), (None, 95), (range(95), 96)])
def test_each_object_is_of_an_image_and_each_that_teaches_has_a_target(rows: range | None, images: int) -> None:
    features, target, names = pictures()
    with pytest.raises(TrainingError, match="with K images, and a target of each row"):
        fit_linear(features, target, names[:images], 2, rows=rows)


def test_a_class_that_one_image_alone_shows_neither_flattens_nor_judges_the_others() -> None:
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(12), 6)
    target = np.where(image == 11, 2, np.arange(72) % 2)
    features = (rng.normal(0, 1, (72, 20)) + 3 * np.eye(20)[target]).astype(np.float32)
    names = [f"image {number}" for number in image]
    head, left_out = fit_linear(features, target, names, 3)
    without, _ = fit_linear(features[:66], target[:66], names[:66], 3)
    assert head.temperature < 1.5 * without.temperature
    assert np.median(head.probabilities(features)[:66].max(1)) > 0.8
    assert np.isnan(left_out[66:, 2]).all()
    assert np.isfinite(left_out[:66]).all()
    assert np.isfinite(left_out[66:, :2]).all()
