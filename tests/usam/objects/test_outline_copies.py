"""Copies of a label are wrong in the ways that they are called."""

from __future__ import annotations

import numpy as np
import pytest

from tests.usam.objects.outlined import picture
from usam.masks.overlap import mask_box
from usam.objects.outline_copies import COPIES, spoilt_copies


@pytest.mark.parametrize("seed", range(8))
def test_copies_are_moved_or_cut(seed: int) -> None:
    mask = picture(seed)[1][seed % 4]
    copies = dict(zip(range(1, len(COPIES)), spoilt_copies(mask, np.random.default_rng(seed)), strict=True))
    left, top, right, bottom = mask_box(mask).astype(int)
    for row, copy in copies.items():
        if COPIES[row] == "cut":
            assert 0.3 < copy.sum() / mask.sum() < 0.7
            assert not (copy & ~mask).any()
        else:
            moved = mask_box(copy)
            shift = np.hypot((moved[0] - left) / (right - left), (moved[1] - top) / (bottom - top))
            assert 0.1 < shift < 0.5
    along = COPIES.index("cut")
    kept = mask_box(copies[along]).astype(int)
    np.testing.assert_array_equal(
        copies[along][kept[1] : kept[3], kept[0] : kept[2]],
        mask[kept[1] : kept[3], kept[0] : kept[2]],
        "cut along a side, so that its box holds no more of the label",
    )
    again = spoilt_copies(mask, np.random.default_rng(seed))
    assert all((one == other).all() for one, other in zip(copies.values(), again, strict=True))


def test_of_one_pixel_there_are_copies_too() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0, 0] = True
    assert all(copy.any() for copy in spoilt_copies(mask, np.random.default_rng(0)))
