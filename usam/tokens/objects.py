"""The objects of one image and the paper's prompts for them.

Legend: N objects of an image; H, W its height and width in pixels. Protocol of UncertainSAM (arXiv 2505.05049):
the centre point of each object, and seven random points more for the dense prompt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from usam.datasets.record import Instance, Record, UInt8Image
from usam.errors import UsamError
from usam.prompts import box_of, dense_points
from usam.tokens.truth import Truth


@dataclass(frozen=True)
class PreparedImage:
    """An image and what is asked about it. `dense` (N, 8, 2) float32 xy, the centre point first; `boxes` (N, 4)."""

    record: Record
    image: UInt8Image
    instances: tuple[Instance, ...]
    truths: tuple[Truth, ...]
    dense: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    problems: Counter[str] = field(default_factory=Counter)


def random_of(object_id: str, seed: int) -> np.random.Generator:
    """A random generator that depends on the object's name and the seed alone."""
    return np.random.default_rng(_hash(object_id, seed))


def _hash(object_id: str, seed: int) -> int:
    digest = hashlib.blake2b(object_id.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big")


def choose(instances: Sequence[Instance], most: int, seed: int) -> list[Instance]:
    """At most `most` (0: all) of an image's objects, a random choice that depends on names and seed alone."""
    if not most or len(instances) <= most:
        return list(instances)
    kept = sorted(instances, key=lambda instance: _hash(instance.object_id, seed))[:most]
    names = {instance.object_id for instance in kept}
    return [instance for instance in instances if instance.object_id in names]


def prepare(record: Record, *, most: int = 0, min_pixels: int = 1, seed: int = 0) -> PreparedImage:
    """Read an image, its masks and the prompts for them; what cannot be used is counted in `problems`.

    An object under `min_pixels` pixels is left out; of the others `most` are kept (0: all). An image that
    cannot be read gives no objects.
    """
    problems: Counter[str] = Counter()
    large: list[Instance] = []
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    try:
        image = record.read_image()
    except UsamError:
        problems["unreadable image"] += 1
        return PreparedImage(record, np.zeros((0, 0, 3), np.uint8), (), (), *_no_prompts(), problems)
    for instance in record.instances:
        mask = instance.read_mask()
        if mask.shape != image.shape[:2]:
            problems["mask of another size"] += 1
        elif np.count_nonzero(mask) < min_pixels:
            problems["object under the least size"] += 1
        else:
            large.append(instance)
            masks[instance.object_id] = mask
    kept = choose(large, most, seed)
    if len(kept) < len(large):
        problems["object beyond the most of an image"] += len(large) - len(kept)
    if not kept:
        return PreparedImage(record, image, (), (), *_no_prompts(), problems)
    chosen = [masks[instance.object_id] for instance in kept]
    dense = [
        dense_points(mask, random_of(instance.object_id, seed)) for instance, mask in zip(kept, chosen, strict=True)
    ]
    return PreparedImage(
        record,
        image,
        tuple(kept),
        tuple(Truth(mask) for mask in chosen),
        np.stack(dense).astype(np.float32),
        np.stack([box_of(mask) for mask in chosen]).astype(np.float32),
        problems,
    )


def _no_prompts() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.zeros((0, 8, 2), np.float32), np.zeros((0, 4), np.float32)
