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

from usam.errors import UsamError
from usam.prompts import box_of, dense_points
from usam.research.datasets.record import Instance, Record, UInt8Image
from usam.research.tokens.views import View
from usam.training.truth import Truth


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


def shuffled(instances: Sequence[Instance], seed: int) -> list[int]:
    """The places of an image's objects in a random order that depends on their names and the seed alone."""
    return sorted(range(len(instances)), key=lambda place: _hash(instances[place].object_id, seed))


def prepare(record: Record, *, most: int = 0, min_pixels: int = 1, seed: int = 0, view: int = 0) -> PreparedImage:
    """Read an image, its masks and the prompts for them; what cannot be used is counted in `problems`.

    An object under `min_pixels` pixels is left out; of the others a random `most` are kept (0: all), in their
    order. An image that cannot be read gives no objects. A `view` other than 0 is a random view of the image instead
    (`usam.research.tokens.views`), the same for the same number; objects that it cuts off are left out.
    """
    problems: Counter[str] = Counter()
    try:
        image = record.read_image()
    except UsamError:
        problems["unreadable image"] += 1
        return PreparedImage(record, np.zeros((0, 0, 3), np.uint8), (), (), *_no_prompts(), problems)
    seen: View | None = None
    if view:
        seen = View.draw((image.shape[0], image.shape[1]), random_of(f"{record.image_id} view {view}", seed))
        photograph_hw, image = image.shape[:2], seen.of_image(image)
    truths: dict[int, Truth] = {}
    for place in shuffled(record.instances, seed) if most else range(len(record.instances)):
        if most and len(truths) == most:
            problems["object beyond the most of an image"] += 1
            continue
        mask = record.instances[place].read_mask()
        if seen is not None and mask.shape == photograph_hw:
            mask = seen.of_mask(mask)
            if not mask.any():
                problems["object outside the view"] += 1
                continue
        truth = Truth(mask)
        if truth.mask.shape != image.shape[:2]:
            problems["mask of another size"] += 1
        elif truth.pixels < min_pixels:
            problems["object under the least size"] += 1
        else:
            truths[place] = truth
    if not truths:
        return PreparedImage(record, image, (), (), *_no_prompts(), problems)
    kept = [record.instances[place] for place in sorted(truths)]
    chosen = [truths[place] for place in sorted(truths)]
    dense = [
        dense_points(truth.mask, random_of(instance.object_id, seed))
        for instance, truth in zip(kept, chosen, strict=True)
    ]
    return PreparedImage(
        record,
        image,
        tuple(kept),
        tuple(chosen),
        np.stack(dense).astype(np.float32),
        np.stack([box_of(truth.mask) for truth in chosen]).astype(np.float32),
        problems,
    )


def _no_prompts() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.zeros((0, 8, 2), np.float32), np.zeros((0, 4), np.float32)
