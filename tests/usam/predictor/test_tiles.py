"""Parts of an image, and their masks in its frame."""

from __future__ import annotations

import numpy as np
import pytest

from usam.errors import PromptError
from usam.predictor.tiles import tiles_of

HW = (90, 160)
SIDE = 64


@pytest.mark.parametrize("per_side", [2, 3, 4])
def test_tiles_cover_the_image_and_overlap(per_side: int) -> None:
    covered = np.zeros(HW, int)
    for tile in tiles_of(HW, per_side):
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.min() == 1
    assert covered.max() >= 4
    assert len(tiles_of(HW, per_side)) == per_side**2


def test_one_tile_is_no_second_pass() -> None:
    assert tiles_of(HW, 1) == []
    assert tiles_of((9, 300), 2) == []
    with pytest.raises(PromptError, match="tile"):
        tiles_of(HW, 0)


def test_a_mask_comes_to_lie_where_it_was_seen() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    for tile in tiles_of(HW, 2):
        logits = (100 - (y - 30) ** 2 - (x - 20) ** 2).astype(np.float32)[None]
        framed = tile.into_frame(logits)[0] > 0
        ys, xs = np.nonzero(framed)
        middle = (ys.mean() + 0.5) / SIDE * HW[0], (xs.mean() + 0.5) / SIDE * HW[1]
        expected = tile.top + 30.5 / SIDE * tile.height, tile.left + 20.5 / SIDE * tile.width
        np.testing.assert_allclose(middle, expected, atol=1.0)
        share = tile.height * tile.width / (HW[0] * HW[1])
        assert framed.sum() == pytest.approx((logits > 0).sum() * share, rel=0.1)


def test_what_an_inner_edge_cuts_off_is_left_to_the_neighbour() -> None:
    top_left, top_right, *_ = tiles_of(HW, 2)
    at_left, at_right = np.full((2, 1, SIDE, SIDE), -1, np.float32)
    at_left[0, 10:20, :5] = 1
    at_right[0, 10:20, -5:] = 1
    both = np.concatenate([at_left, at_right])
    assert top_left.whole(both).tolist() == [True, False]
    assert top_right.whole(both).tolist() == [False, True]


def test_a_part_is_cut_out() -> None:
    image = np.arange(90 * 160 * 3).reshape(90, 160, 3).astype(np.uint8)
    tile = tiles_of(HW, 2)[3]
    part = tile.cut(image)
    assert part.shape == (tile.height, tile.width, 3)
    np.testing.assert_array_equal(part, image[tile.top :, tile.left :])
