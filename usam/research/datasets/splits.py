"""Splits that keep a group together and do not move when a set grows.

A group's part depends on its name, the seed and the fractions alone, so a record stays where it is whatever
else is in the set, and data sets that share images (COCO instances and panoptic) agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from usam.errors import DatasetError
from usam.research.datasets.record import Record

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}

RecordOrGroup = TypeVar("RecordOrGroup", Record, str)


def position_of(group: str, seed: int = 0) -> float:
    """Where a group falls in [0, 1): its name and the seed, hashed."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def part_of(group: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0) -> str:
    """The part a group belongs to. Raises `DatasetError` unless the fractions, none negative, add up to 1."""
    if not fractions or any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError("fractions that add up to 1", f"{dict(fractions)}", "give a share to each part")
    position, end = position_of(group, seed), 0.0
    for part, share in fractions.items():
        end += share
        if position < end:
            return part
    return next(part for part in reversed(list(fractions)) if fractions[part] > 0)


def split_by_group(
    items: Iterable[RecordOrGroup], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, list[RecordOrGroup]]:
    """Records (by their `group`) or group names, in their order, in the parts named by `fractions`."""
    parts: dict[str, list[RecordOrGroup]] = {part: [] for part in fractions}
    for item in items:
        parts[part_of(item if isinstance(item, str) else item.group, fractions, seed)].append(item)
    return parts
