"""Training samples of the nano family: real images held small in memory, cropped, pasted and prompted at random.

Legend: N masks of one image, S input side in pixels, m = S / 4 the side of a target mask, K points of a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from usam.research.nano.answers import further_target
from usam.research.nano.scenes import SMALLEST_AREA, ByteArray, FloatArray, Scene
from usam.research.nano.stored_images import StoredImage
from usam.research.nano.synthesis import synthesise_scene

IntArray = npt.NDArray[np.int32]


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
    kept = [mask for mask in masks if mask.mean() >= 255 * SMALLEST_AREA]
    stack = np.stack(kept).astype(np.float32) / 255.0 if kept else np.zeros((0, m, m), np.float32)
    ignored: FloatArray | None = None
    if stored.ignored is not None:
        small = cv2.resize(stored.ignored[rows, columns], (m, m), interpolation=cv2.INTER_AREA)
        ignored = (small / 255.0).astype(np.float32)
    turned, stack, ignored = turn(np.asarray(image, np.uint8), stack, ignored, rng)
    return Scene(recolour(turned, rng), stack, ignored)


def turn(
    image: npt.NDArray[np.uint8], masks: FloatArray, ignored: FloatArray | None, rng: np.random.Generator
) -> tuple[ByteArray, FloatArray, FloatArray | None]:
    """Mirror a square picture and what belongs to it half of the time; upside down or on its side now and then."""
    known = masks if ignored is None else np.concatenate([masks, ignored[None]])
    if rng.random() < 0.5:
        image, known = image[:, ::-1], known[..., ::-1]
    if rng.random() < 0.1:
        image, known = image[::-1], known[:, ::-1]
    if rng.random() < 0.1:
        image, known = image.swapaxes(0, 1), known.swapaxes(1, 2)
    known = np.ascontiguousarray(known, np.float32)
    image = np.ascontiguousarray(image, np.uint8)
    return (image, known, None) if ignored is None else (image, known[:-1], known[-1])


def _crop_window(stored: StoredImage, rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = stored.image.shape[:2]
    if rng.random() < 0.3:
        return 0, 0, height, width
    focus = stored.masks[rng.integers(len(stored.masks))]
    focused = rng.random() < 0.6
    largest = float(np.sqrt(focus.mean() / 255 / SMALLEST_AREA)) if focused else 1.0
    scale = rng.uniform(0.3, min(1.0, max(0.4, largest)))
    aspect = float(np.exp(rng.uniform(-0.25, 0.25)))
    crop_h = int(np.clip(height * scale * aspect, 32, height))
    crop_w = int(np.clip(width * scale / aspect, 32, width))
    if focused:
        ys, xs = np.nonzero(focus)
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


def degrade(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Now and then what cameras and networks do: out of focus, shrunk, noisy, JPEG."""
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8)), np.uint8)
    if rng.random() < 0.1:
        side = image.shape[0]
        small = max(32, int(side * rng.uniform(0.35, 0.8)))
        shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.12:
        noise = rng.standard_normal(image.shape[:2], np.float32)[..., None] * rng.uniform(3, 16)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = int(rng.integers(25, 85))
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return image


def inset(scene: Scene, small: Scene, rng: np.random.Generator) -> Scene:
    """Lay the whole of `small`, shrunk to a third up to three quarters, over a part of `scene`, with its objects."""
    m = scene.image.shape[0] // 4
    span = int(m * rng.uniform(0.35, 0.75))
    top, left = int(rng.integers(m - span + 1)), int(rng.integers(m - span + 1))
    rows, columns = slice(top, top + span), slice(left, left + span)
    image = scene.image.copy()
    image[4 * top : 4 * (top + span), 4 * left : 4 * (left + span)] = cv2.resize(
        small.image, (4 * span, 4 * span), interpolation=cv2.INTER_AREA
    )
    outer = scene.masks.copy()
    outer[:, rows, columns] = 0
    inner = np.zeros((len(small.masks), m, m), np.float32)
    for index, mask in enumerate(small.masks):
        inner[index, rows, columns] = cv2.resize(mask, (span, span), interpolation=cv2.INTER_AREA)
    masks = np.concatenate([outer, inner])
    ignored: FloatArray | None = None
    if scene.ignored is not None or small.ignored is not None:
        ignored = np.zeros((m, m), np.float32) if scene.ignored is None else scene.ignored.copy()
        ignored[rows, columns] = 0
        if small.ignored is not None:
            ignored[rows, columns] = cv2.resize(small.ignored, (span, span), interpolation=cv2.INTER_AREA)
    return Scene(image, masks[masks.mean((1, 2)) >= SMALLEST_AREA], ignored)


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
    ignored = None if scene.ignored is None else (scene.ignored * (1 - small)).astype(np.float32)
    return Scene(image, masks[masks.mean((1, 2)) >= SMALLEST_AREA].astype(np.float32), ignored)


@dataclass(frozen=True)
class Batch:
    """Pictures with their prompts, in groups of equal length so that no prompt is padded beyond its group.

    `images` (B, S, S, 3) uint8. A group: `owner` (P,) index of the picture, `points` (P, K, 2) pixels of the input,
    `labels` (P, K) as SAM 2 codes them (1, 0, box corners 2 and 3, -1 none), `targets` (P, m, m) float32,
    -1 where nothing is known; `further` (P, m, m) what else is meant, likewise, -1 throughout where nothing else is.
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
    further: FloatArray | None = None


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


def prompt_groups(
    scenes: Sequence[Scene], counts: PromptCounts, rng: np.random.Generator, joined: float = 0.0
) -> tuple[PromptGroup, ...]:
    """Draw the prompts of all scenes. A group of points has one length, 2 to 8, drawn anew each time.

    `joined`: share of the single clicks that may mean a part or a union of objects as well; a box or several points
    say what is meant.
    """
    length = int(rng.integers(2, 9)) if rng.random() < 0.6 else 8
    groups = []
    for kind, count in (("click", counts.click), ("box", counts.box), ("points", counts.points)):
        owner, points, labels, targets, further = [], [], [], [], []
        for index, scene in enumerate(scenes):
            if not len(scene.masks) or not count:
                continue
            for which in choose_masks(scene.masks, count, rng):
                mask = scene.masks[which]
                centred = bool(rng.random() < 0.5)
                if kind == "click":
                    points.append(click_in(mask, 1, rng, centred))
                    labels.append([1])
                    if joined:
                        may = rng.random() < joined
                        further.append(
                            further_target(scene, int(which), points[-1][0], rng) if may else np.full_like(mask, -1)
                        )
                elif kind == "box":
                    points.append(box_around(mask, rng, jitter=bool(rng.random() < 0.5)))
                    labels.append([2, 3])
                else:
                    points.append(click_in(mask, length, rng, centred))
                    labels.append([1] * length)
                owner.append(index)
                targets.append(scene.target(int(which)))
        if owner:
            groups.append(
                PromptGroup(
                    kind,  # type: ignore[arg-type]
                    np.array(owner),
                    np.stack(points),
                    np.array(labels, np.int32),
                    np.stack(targets),
                    np.stack(further) if further else None,
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
        wrong = np.flatnonzero(((logits[index] > 0) != goal) & (targets[index] >= 0))
        if not len(wrong):
            continue
        at = int(rng.choice(wrong))
        y, x = divmod(at, m)
        points[index, 0] = (np.array([x, y]) + 0.5) * 4 - 0.5
        labels[index, 0] = int(goal[y, x])
    return points, labels


COCO_SHARE = 3.0
"""How much more often than another set of its size COCO is drawn: nothing else shows everyday scenes."""


def picture_shares(store: Sequence[StoredImage]) -> npt.NDArray[np.float64]:
    """(N,) how often each picture is drawn, in sum 1: a set counts as the root of the number of its pictures."""
    sizes = Counter(stored.dataset for stored in store)
    shares = np.array(
        [(COCO_SHARE if s.dataset.startswith("coco") else 1.0) / np.sqrt(sizes[s.dataset]) for s in store]
    )
    return np.asarray(shares / shares.sum(), np.float64)


def draw_batch(
    store: Sequence[StoredImage],
    size: int,
    side: int,
    counts: PromptCounts,
    rng: np.random.Generator,
    synthetic: float = 0.15,
    pasted: float = 0.4,
    shares: npt.NDArray[np.float64] | None = None,
    joined: float = 0.0,
) -> Batch:
    """`size` random pictures of `side` pixels with prompts.

    `synthetic`: share of wholly made-up pictures; `pasted`: share of the real ones with objects of others laid over;
    `shares`: as `picture_shares` gives them, all pictures alike without; `joined`: see `prompt_groups`.
    """

    def draw() -> StoredImage:
        return store[int(rng.choice(len(store), p=shares))]

    scenes: list[Scene] = []
    while len(scenes) < size:
        if rng.random() < synthetic:
            backdrop = draw().image if rng.random() < 0.5 else None
            scene = synthesise_scene(side, rng, backdrop)
        else:
            scene = crop_scene(draw(), side, rng)
            if rng.random() < 0.12:
                scene = inset(crop_scene(draw(), side, rng), scene, rng)
            elif rng.random() < pasted:
                for _ in range(int(rng.integers(1, 4))):
                    scene = paste_object(scene, draw(), rng)
            scene = replace(scene, image=degrade(scene.image, rng))
        if len(scene.masks):
            scenes.append(scene)
    groups = prompt_groups(scenes, counts, rng, joined)
    return Batch(np.stack([scene.image for scene in scenes]), groups)
