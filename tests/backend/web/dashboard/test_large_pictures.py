"""Large pictures: numbers within their masks, doubt along edges, and the plain picture where nothing can be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.pool.kept_objects import Reading
from backend.store.records import ProposalRow
from backend.web.dashboard.large_pictures import doubt_of, kept_of, large_picture, numbered, other_reading
from tests.factories import HW, bright, kept_objects, picture
from usam.masks.packed_logits import PackedLogits


def test_a_number_stands_in_the_middle_of_its_mask() -> None:
    mask = bright()
    plain, drawn = picture(1), numbered(picture(1), {2: mask}, 2)
    dark = np.all(np.abs(drawn.astype(int) - (20, 26, 32)) < 12, axis=2)
    rows, columns = np.nonzero(dark)
    middle = np.argwhere(mask).mean(axis=0)
    assert np.abs([rows.mean() - middle[0], columns.mean() - middle[1]]).max() < 8
    assert np.array_equal(drawn[-4:, -4:], plain[-4:, -4:]), "what no mask covers stays as it was"


def test_doubt_is_a_bit_at_the_edge_and_none_far_from_it() -> None:
    logits = np.tile(np.linspace(-20, 20, 65, dtype=np.float32), (65, 1))
    doubt = doubt_of(logits, (65, 65))
    assert doubt[:, 32] == pytest.approx(1.0, abs=0.01)
    assert doubt[:, 0].max() < 1e-5
    assert 0 <= doubt.min() <= doubt.max() <= 1.0


def test_doubt_glows_where_the_mask_is_unsure() -> None:
    sure = kept_objects(bright())
    unsure = replace(sure, masks=PackedLogits.of(np.where(sure.masks.logits([0]) > 0, 0.2, -9).astype(np.float32)))
    glow = [large_picture(picture(1), one.pack(1, "key", {}), (0,), "doubt")[bright()].mean() for one in (sure, unsure)]
    assert glow[1] > glow[0] + 40


def test_another_reading_is_the_alternative_or_what_the_first_model_made() -> None:
    kept = kept_objects(bright(), bright())
    assert other_reading(kept, 0) is None
    moved = PackedLogits.of(np.roll(kept.masks.logits([0]), 20, axis=2))
    asked = replace(kept, larger={0: Reading(0.9, "large", moved)}, alternatives={1: Reading(0.7, "small", moved)})
    assert np.array_equal(other_reading(asked, 0) > 0, kept.masks.logits([0])[0] > 0)  # type: ignore[operator]
    assert np.array_equal(other_reading(asked, 1) > 0, moved.logits([0])[0] > 0)  # type: ignore[operator]


@pytest.mark.parametrize("row", [None, ProposalRow(1, "key", b"", {}), ProposalRow(1, "key", b"damaged", {})])
@pytest.mark.parametrize("view", ["proposals", "readings", "doubt"])
def test_without_anything_kept_the_picture_stands_alone(row: ProposalRow | None, view: str) -> None:
    assert kept_of(row) is None
    assert np.array_equal(large_picture(picture(1, HW), row, (0, 99), view), picture(1, HW))  # type: ignore[arg-type]
