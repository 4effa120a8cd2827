"""Made-up pictures: parts lie in wholes, and nothing is drawn by chance alone."""

from __future__ import annotations

import numpy as np
import pytest

from usam.research.nano.scenes import SMALLEST_AREA
from usam.research.nano.synthesis import angular_shape, smooth_blob, synthesise_scene, texture


@pytest.mark.parametrize("seed", range(6))
def test_scene_has_masks_of_its_size(seed: int) -> None:
    scene = synthesise_scene(64, np.random.default_rng(seed))
    assert scene.image.shape == (64, 64, 3)
    assert scene.masks.shape[1:] == (16, 16)
    assert ((scene.masks >= 0) & (scene.masks <= 1)).all()
    assert (scene.masks.mean((1, 2)) >= SMALLEST_AREA).all()


def test_wholes_contain_parts_and_overlap_nothing_else() -> None:
    nested = 0
    for seed in range(20):
        masks = synthesise_scene(64, np.random.default_rng(seed)).masks
        for index, outer in enumerate(masks):
            for inner in masks[index + 1 :]:
                shared = np.minimum(outer, inner).sum()
                if shared > 0.95 * inner.sum() and inner.sum() < 0.9 * outer.sum():
                    nested += 1
    assert nested >= 10


def test_same_seed_same_picture() -> None:
    backdrop = np.random.default_rng(9).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    one, two = (synthesise_scene(64, np.random.default_rng(3), backdrop) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.masks, two.masks)


def test_outlines_surround_their_centre() -> None:
    rng = np.random.default_rng(0)
    for outline in (smooth_blob((30, 40), 10, rng), angular_shape((30, 40), 10, rng)):
        assert outline[:, 0].min() < 30 < outline[:, 0].max()
        assert outline[:, 1].min() < 40 < outline[:, 1].max()


def test_textures_differ() -> None:
    rng = np.random.default_rng(0)
    surfaces = [texture(32, rng) for _ in range(12)]
    assert all(surface.shape == (32, 32, 3) and surface.min() >= 0 and surface.max() <= 255 for surface in surfaces)
    assert np.std([surface.mean() for surface in surfaces]) > 5
