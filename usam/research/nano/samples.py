"""Training samples of the nano family: real images held small in memory, cropped, pasted and prompted at random.

Legend: N masks of one image, S input side in pixels, m = S / 4 the side of a target mask, K points of a prompt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import DatasetError, UsamError
from usam.research.datasets.record import Record
from usam.research.nano.scenes import SMALLEST_AREA, ByteArray, FloatArray, Scene
from usam.research.nano.synthesis import synthesise_scene

IntArray = npt.NDArray[np.int32]
Part = Literal["train", "heads", "test"]

IMAGE_SIDE = 480
"""Longer side of an image in memory; masks are kept at half of it."""
MOST_MASKS = 32
MOST_FRAMES = 12
"""Frames of one video that are trained on."""


def nano_split(group: str) -> Part:
    """What an image (or the video it is a frame of) may be used for: 70 % train, 15 % heads, 15 % test.

    `group`: the record's group or image id; a path, a suffix and leading zeros do not matter. No weight of the nano
    family has seen 'heads' or 'test'; heads are trained and calibrated on 'heads', figures are taken on 'test'.
    """
    name = group.rsplit("/", 1)[-1]
    name = name.rsplit(".", 1)[0].lstrip("0") or "0"
    share = int.from_bytes(hashlib.sha256(f"nano-11/{name}".encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.70 else "heads" if share < 0.85 else "test"


@dataclass(frozen=True)
class StoredImage:
    """An image and its masks, small. `image` (h, w, 3) uint8; `masks` (N, h // 2, w // 2) uint8, 0 or 255."""

    image: ByteArray
    masks: ByteArray


def store_record(record: Record) -> StoredImage | None:
    """Shrink one record for memory; None where nothing in it is large enough."""
    image = record.read_image()
    scale = min(1.0, IMAGE_SIDE / max(image.shape[:2]))
    width, height = (max(2, round(side * scale)) for side in image.shape[1::-1])
    half = (width // 2, height // 2)
    masks = []
    for instance in record.instances:
        mask = instance.read_mask()
        if mask.mean() >= SMALLEST_AREA:
            small = cv2.resize(mask.astype(np.uint8) * 255, half, interpolation=cv2.INTER_AREA)
            masks.append(np.where(small > 127, 255, 0).astype(np.uint8))
    if not masks:
        return None
    masks.sort(key=lambda mask: -int(mask.astype(np.int64).sum()))
    small_image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return StoredImage(np.ascontiguousarray(small_image, np.uint8), np.stack(masks[:MOST_MASKS]))


def training_records(root: Path) -> Iterator[Record]:
    """Records of the training part of the five data sets under `root` that the family is trained on.

    A data set that is not there is passed over; raises `DatasetError` when none is.
    """
    from usam.research.datasets import open_dataset

    sources = (
        ("coco", "coco_subset"),
        ("coco-panoptic", "coco_subset"),
        ("davis", "DAVIS"),
        ("mose", "PUMaVOS_chair"),
        ("dsb2018", "DSB2018_subset"),
        ("folders", "OxfordPets_26"),
    )
    found = 0
    for name, folder in sources:
        if not (root / folder).is_dir():
            continue
        for record in open_dataset(name, root / folder):
            if nano_split(record.group) == "train":
                found += 1
                yield record
    if not found:
        raise DatasetError("a folder with the training data sets", str(root), "see models/NANO.md")


def load_store(records: Iterable[Record]) -> list[StoredImage]:
    """All usable records in memory, images with several annotations (COCO's two kinds) once for each."""
    store: list[StoredImage] = []
    frames: Counter[str] = Counter()
    for record in records:
        group = f"{record.dataset}/{record.group}"
        if frames[group] >= MOST_FRAMES:
            continue
        frames[group] += 1
        try:
            stored = store_record(record)
        except UsamError:
            continue
        if stored is not None:
            store.append(stored)
    if not store:
        raise DatasetError("images with masks to train on", "none", "check the data folder")
    return store


def crop_scene(stored: StoredImage, side: int, rng: np.random.Generator) -> Scene:
    """A random crop of one image, stretched to (side, side), flipped and recoloured at random."""
    height, width = stored.image.shape[:2]
    top, left, crop_h, crop_w = _crop_window(stored, rng)
    window = stored.image[top : top + crop_h, left : left + crop_w]
    shrink = crop_h * crop_w > side * side
    image = cv2.resize(window, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    mask_h, mask_w = stored.masks.shape[1:]
    rows = slice(top * mask_h // height, max(top * mask_h // height + 2, (top + crop_h) * mask_h // height))
    columns = slice(left * mask_w // width, max(left * mask_w // width + 2, (left + crop_w) * mask_w // width))
    m = side // 4
    masks = [cv2.resize(mask[rows, columns], (m, m), interpolation=cv2.INTER_AREA) for mask in stored.masks]
    flip = rng.random() < 0.5
    if flip:
        image = image[:, ::-1]
    kept = [mask[:, ::-1] if flip else mask for mask in masks if mask.mean() >= 255 * SMALLEST_AREA]
    stack = np.stack(kept).astype(np.float32) / 255.0 if kept else np.zeros((0, m, m), np.float32)
    return Scene(recolour(np.ascontiguousarray(image, np.uint8), rng), stack)


def _crop_window(stored: StoredImage, rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = stored.image.shape[:2]
    if rng.random() < 0.3:
        return 0, 0, height, width
    scale = rng.uniform(0.4, 1.0)
    aspect = float(np.exp(rng.uniform(-0.25, 0.25)))
    crop_h = int(np.clip(height * scale * aspect, 32, height))
    crop_w = int(np.clip(width * scale / aspect, 32, width))
    if rng.random() < 0.6:
        mask = stored.masks[rng.integers(len(stored.masks))]
        ys, xs = np.nonzero(mask)
        at = rng.integers(len(ys))
        centre_y, centre_x = int(ys[at]) * 2, int(xs[at]) * 2
        top = centre_y - int(crop_h * rng.uniform(0.2, 0.8))
        left = centre_x - int(crop_w * rng.uniform(0.2, 0.8))
    else:
        top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
    return int(np.clip(top, 0, height - crop_h)), int(np.clip(left, 0, width - crop_w)), crop_h, crop_w


def recolour(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Random brightness, contrast, gamma, saturation and cast, through one table a channel."""
    if rng.random() < 0.2:
        return image
    ramp = np.arange(256, dtype=np.float32)[:, None] / 255.0
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    table = np.clip((ramp ** rng.uniform(0.75, 1.35) - 0.5) * gain + 0.5 + rng.uniform(-0.12, 0.12), 0, 1)
    out = cv2.LUT(image, (table * 255).astype(np.uint8)[None])
    if rng.random() < 0.3:
        gray = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        share = rng.uniform(0.3, 1.0)
        out = cv2.addWeighted(out, 1 - share, gray, share, 0)
    return np.asarray(out, np.uint8)


def paste_object(scene: Scene, donor: StoredImage, rng: np.random.Generator) -> Scene:
    """Cut one object of `donor` and lay it over the scene; what it hides is taken from the other masks."""
    side, m = scene.image.shape[0], scene.image.shape[0] // 4
    mask = donor.masks[rng.integers(len(donor.masks))]
    share = mask.mean() / 255
    ys, xs = np.nonzero(mask)
    if not 0.004 < share < 0.5 or len(ys) < 64:
        return scene
    y0, y1, x0, x1 = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
    box_h, box_w = y1 - y0, x1 - x0
    span = side * rng.uniform(0.15, 0.6)
    factor = min(span / max(box_h, box_w), side / max(box_h, box_w) * 0.9)
    new_h, new_w = max(8, int(box_h * factor)), max(8, int(box_w * factor))
    patch = cv2.resize(donor.image[2 * y0 : 2 * y1, 2 * x0 : 2 * x1], (new_w, new_h), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(mask[y0:y1, x0:x1], (new_w, new_h), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    if rng.random() < 0.5:
        patch, alpha = patch[:, ::-1], alpha[:, ::-1]
    alpha = np.clip((cv2.GaussianBlur(alpha, (3, 3), 0) - 0.5) * 2 + 0.4, 0, 1)
    top = int(rng.integers(0, side - new_h + 1))
    left = int(rng.integers(0, side - new_w + 1))
    full = np.zeros((side, side), np.float32)
    full[top : top + new_h, left : left + new_w] = alpha
    image = scene.image.copy()
    region = image[top : top + new_h, left : left + new_w].astype(np.float32)
    blended = region * (1 - alpha[..., None]) + recolour(np.ascontiguousarray(patch), rng) * alpha[..., None]
    image[top : top + new_h, left : left + new_w] = blended.astype(np.uint8)
    small = cv2.resize(full, (m, m), interpolation=cv2.INTER_AREA)
    masks = np.concatenate([scene.masks * (1 - small), small[None]])
    return Scene(image, masks[masks.mean((1, 2)) >= SMALLEST_AREA].astype(np.float32))


@dataclass(frozen=True)
class Batch:
    """Pictures with their prompts, in groups of equal length so that no prompt is padded beyond its group.

    `images` (B, S, S, 3) uint8. A group: `owner` (P,) index of the picture, `points` (P, K, 2) pixels of the input,
    `labels` (P, K) as SAM 2 codes them (1, 0, box corners 2 and 3, -1 none), `targets` (P, m, m) float32.
    """

    images: ByteArray
    groups: tuple[PromptGroup, ...]


@dataclass(frozen=True)
class PromptGroup:
    kind: Literal["click", "box", "points"]
    owner: npt.NDArray[np.int64]
    points: FloatArray
    labels: IntArray
    targets: FloatArray


@dataclass(frozen=True)
class PromptCounts:
    """Prompts per picture of each kind."""

    click: int = 4
    box: int = 3
    points: int = 2


def choose_masks(masks: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """Indices of `count` masks (N, m, m), larger ones somewhat more often, each before any again."""
    area = masks.mean((1, 2))
    weight = np.sqrt(area) / np.sqrt(area).sum()
    without = min(count, len(masks))
    first = rng.choice(len(masks), without, replace=False, p=weight)
    rest = rng.choice(len(masks), count - without, p=weight)
    return np.concatenate([first, rest]).astype(np.int32)


def click_in(mask: FloatArray, count: int, rng: np.random.Generator, centred: bool) -> FloatArray:
    """(count, 2) points in input pixels inside a (m, m) mask; the first near its middle where `centred`."""
    solid = mask > 0.5
    if not solid.any():
        solid = mask >= mask.max()
    ys, xs = np.nonzero(solid)
    chosen = rng.integers(len(ys), size=count)
    if centred:
        core = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8))
        core_ys, core_xs = np.nonzero(core)
        if len(core_ys):
            nearest = np.argmin((core_ys - ys.mean()) ** 2 + (core_xs - xs.mean()) ** 2)
            chosen[0] = np.flatnonzero((ys == core_ys[nearest]) & (xs == core_xs[nearest]))[0]
    points = np.stack([xs[chosen], ys[chosen]], 1).astype(np.float32)
    return ((points + rng.random((count, 2))) * 4 - 0.5).astype(np.float32)


def box_around(mask: FloatArray, rng: np.random.Generator, jitter: bool) -> FloatArray:
    """(2, 2) corners in input pixels of a (m, m) coverage mask, to a fraction of a mask pixel."""
    columns, rows = mask.max(0), mask.max(1)
    corners = np.empty((2, 2), np.float32)
    for axis, profile in enumerate((columns, rows)):
        at = np.flatnonzero(profile > 0.25)
        if not len(at):
            at = np.array([int(profile.argmax())])
        corners[0, axis] = (at[0] + 1 - profile[at[0]]) * 4
        corners[1, axis] = (at[-1] + profile[at[-1]]) * 4
    if jitter:
        extent = corners[1] - corners[0]
        noise = rng.normal(0, 0.06, (2, 2)) * extent
        corners += np.clip(noise, -0.12 * extent, 0.12 * extent)
    side = mask.shape[0] * 4
    return np.clip(corners - 0.5, -0.5, side - 0.5).astype(np.float32)


def prompt_groups(scenes: Sequence[Scene], counts: PromptCounts, rng: np.random.Generator) -> tuple[PromptGroup, ...]:
    """Draw the prompts of all scenes. A group of points has one length, 2 to 8, drawn anew each time."""
    length = int(rng.integers(2, 9)) if rng.random() < 0.6 else 8
    groups = []
    for kind, count in (("click", counts.click), ("box", counts.box), ("points", counts.points)):
        owner, points, labels, targets = [], [], [], []
        for index, scene in enumerate(scenes):
            if not len(scene.masks) or not count:
                continue
            for which in choose_masks(scene.masks, count, rng):
                mask = scene.masks[which]
                centred = bool(rng.random() < 0.5)
                if kind == "click":
                    points.append(click_in(mask, 1, rng, centred))
                    labels.append([1])
                elif kind == "box":
                    points.append(box_around(mask, rng, jitter=bool(rng.random() < 0.5)))
                    labels.append([2, 3])
                else:
                    points.append(click_in(mask, length, rng, centred))
                    labels.append([1] * length)
                owner.append(index)
                targets.append(mask)
        if owner:
            groups.append(
                PromptGroup(
                    kind,  # type: ignore[arg-type]
                    np.array(owner),
                    np.stack(points),
                    np.array(labels, np.int32),
                    np.stack(targets),
                )
            )
    return tuple(groups)


def correction_clicks(logits: FloatArray, targets: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """One click for each mask where it is wrong: (P, 1, 2) input pixels and (P, 1) labels.

    `logits`, `targets`: (P, m, m). A point of the error region drawn at random, positive where the mask misses the
    object, negative where it spills over; -1 (no point) where nothing is wrong.
    """
    count, m = len(logits), logits.shape[-1]
    points = np.zeros((count, 1, 2), np.float32)
    labels = np.full((count, 1), -1, np.int32)
    for index in range(count):
        goal = targets[index] > 0.5
        wrong = np.flatnonzero((logits[index] > 0) != goal)
        if not len(wrong):
            continue
        at = int(rng.choice(wrong))
        y, x = divmod(at, m)
        points[index, 0] = (np.array([x, y]) + 0.5) * 4 - 0.5
        labels[index, 0] = int(goal[y, x])
    return points, labels


def draw_batch(
    store: Sequence[StoredImage],
    size: int,
    side: int,
    counts: PromptCounts,
    rng: np.random.Generator,
    synthetic: float = 0.15,
    pasted: float = 0.4,
) -> Batch:
    """`size` random pictures of `side` pixels with prompts.

    `synthetic`: share of wholly made-up pictures; `pasted`: share of the real ones with objects of others laid over.
    """
    scenes: list[Scene] = []
    while len(scenes) < size:
        if rng.random() < synthetic:
            backdrop = store[int(rng.integers(len(store)))].image if rng.random() < 0.5 else None
            scene = synthesise_scene(side, rng, backdrop)
        else:
            scene = crop_scene(store[int(rng.integers(len(store)))], side, rng)
            if rng.random() < pasted:
                for _ in range(int(rng.integers(1, 4))):
                    scene = paste_object(scene, store[int(rng.integers(len(store)))], rng)
        if len(scene.masks):
            scenes.append(scene)
    groups = prompt_groups(scenes, counts, rng)
    return Batch(np.stack([scene.image for scene in scenes]), groups)
