"""Splits by group, stored masks, and the list of readers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from dataset_layouts import disc
from hypothesis import given
from hypothesis import strategies as st

from usam.errors import DatasetError
from usam.research.datasets import READERS, open_dataset, part_of, split_by_group
from usam.research.datasets.splits import DEFAULT_FRACTIONS, position_of
from usam.research.datasets.stored_masks import MalformedMask, PackedMask

GROUPS = [f"coco/{number}" for number in range(3000)]


def test_shares_are_met_and_every_group_is_in_one_part() -> None:
    parts = split_by_group(GROUPS, {"train": 0.7, "val": 0.2, "test": 0.1})
    counts = {part: len(groups) for part, groups in parts.items()}
    assert sum(counts.values()) == len(set().union(*parts.values())) == 3000
    assert abs(counts["train"] - 2100) < 80
    assert abs(counts["val"] - 600) < 80


def test_a_group_stays_whatever_else_is_in_the_set() -> None:
    few, many = split_by_group(GROUPS[::7]), split_by_group(GROUPS)
    for part, groups in few.items():
        assert set(groups) <= set(many[part])


def test_the_training_part_only_grows_with_its_share() -> None:
    small = split_by_group(GROUPS, {"train": 0.5, "rest": 0.5})
    large = split_by_group(GROUPS, {"train": 0.8, "rest": 0.2})
    assert set(small["train"]) <= set(large["train"])


def test_another_seed_another_split() -> None:
    agreeing = Counter(part_of(g, seed=0) == part_of(g, seed=1) for g in GROUPS)
    assert 0.55 < agreeing[True] / 3000 < 0.8
    assert position_of("coco/9") == position_of("coco/9", 0)


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "val": -0.5}])
def test_fractions_that_are_none(fractions: dict[str, float]) -> None:
    with pytest.raises(DatasetError, match="add up to 1"):
        part_of("a", fractions)


def test_default_fractions_add_up() -> None:
    assert sum(DEFAULT_FRACTIONS.values()) == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_packed_masks_come_back(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.7
    mask[seed % height, seed % width] = True
    assert np.array_equal(PackedMask.of(mask)(), mask)


def test_an_empty_mask_is_not_packed() -> None:
    with pytest.raises(MalformedMask, match="at least one pixel"):
        PackedMask.of(disc() & False)


def test_an_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(DatasetError, match=", ".join(READERS)):
        open_dataset("imagenet", "/")
