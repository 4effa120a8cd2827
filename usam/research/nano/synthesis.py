"""Pictures made up without end: things with parts with parts of their own, which is what three masks are for.

Legend: S side in pixels, m = S / 4 the side of a target mask, N masks.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from usam.research.nano.scenes import SMALLEST_AREA, ByteArray, FloatArray, Scene

Outline = npt.NDArray[np.float32]


def smooth_blob(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Outline:
    """(64, 2) outline of a closed smooth shape about `centre` (x, y), of `radius` pixels on average."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    reach = np.ones_like(angle)
    for wave in range(2, 7):
        reach += rng.normal(0, 0.35 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    reach = np.clip(reach, 0.3, 1.8) * radius
    stretch, turn = float(np.exp(rng.uniform(-0.6, 0.6))), rng.uniform(0, np.pi)
    x, y = np.cos(angle) * reach * stretch, np.sin(angle) * reach / stretch
    return np.stack(
        [centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], 1
    ).astype(np.float32)


def angular_shape(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Outline:
    """(K, 2) outline of a polygon of three to seven corners about `centre`."""
    corners = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi / corners * 0.6, corners) + np.arange(corners) * 2 * np.pi / corners)
    reach = radius * rng.uniform(0.6, 1.4, corners)
    return np.stack([centre[0] + np.cos(angle) * reach, centre[1] + np.sin(angle) * reach], 1).astype(np.float32)


def texture(side: int, rng: np.random.Generator, backdrop: ByteArray | None = None) -> FloatArray:
    """(side, side, 3) float32 in [0, 255]: a plain, graded, striped, mottled or photographed surface."""
    base = rng.uniform(20, 235, 3)
    kind = rng.integers(5 if backdrop is not None else 4)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.cos(turn) * ramp[None, :] + np.sin(turn) * ramp[:, None]
    if kind == 4 and backdrop is not None:
        height, width = backdrop.shape[:2]
        cut = max(16, int(min(height, width) * rng.uniform(0.2, 0.9)))
        top, left = int(rng.integers(height - cut + 1)), int(rng.integers(width - cut + 1))
        patch = cv2.resize(backdrop[top : top + cut, left : left + cut], (side, side))
        return np.asarray(patch, np.float32)
    if kind == 1:
        pattern = slope * rng.uniform(10, 70)
    elif kind == 2:
        pattern = np.sin(slope * rng.uniform(8, 60)) * rng.uniform(10, 60)
    elif kind == 3:
        cells = int(rng.integers(3, 24))
        pattern = cv2.resize(rng.normal(0, 35, (cells, cells)).astype(np.float32), (side, side))
    else:
        pattern = np.zeros((side, side), np.float32)
    tint = rng.uniform(0.5, 1.0, 3)
    surface = base[None, None] + pattern[..., None] * tint
    noise = rng.normal(0, rng.uniform(1, 10), (side // 2, side // 2, 1)).astype(np.float32)
    surface += cv2.resize(noise, (side, side))[..., None]
    return np.asarray(np.clip(surface, 0, 255), np.float32)


def _fill(outline: Outline, side: int) -> FloatArray:
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 8).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=3)
    return np.asarray(canvas / 255.0, np.float32)


def _outline(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Outline:
    return (smooth_blob if rng.random() < 0.6 else angular_shape)(centre, radius, rng)


def _point_in(mask: FloatArray, rng: np.random.Generator) -> tuple[float, float]:
    ys, xs = np.nonzero(mask > 0.5)
    if not len(ys):
        return mask.shape[1] / 2, mask.shape[0] / 2
    at = rng.integers(len(ys))
    return float(xs[at]), float(ys[at])


def synthesise_scene(side: int, rng: np.random.Generator, backdrop: ByteArray | None = None) -> Scene:
    """One picture of 1 to 4 things, each with up to 3 parts, each with up to 2 parts of its own.

    `backdrop` (h, w, 3): a photograph to take surfaces from. Masks are of what is visible: a thing loses what a later
    thing hides, and a whole keeps the area of its parts.
    """
    image = texture(side, rng, backdrop)
    nested: list[FloatArray] = []
    for _ in range(int(rng.integers(1, 5))):
        centre = (rng.uniform(0.1, 0.9) * side, rng.uniform(0.1, 0.9) * side)
        whole = _fill(_outline(centre, side * rng.uniform(0.1, 0.35), rng), side)
        nested = [mask * (1 - whole) for mask in nested]
        image = _paint(image, whole, texture(side, rng, backdrop), rng)
        nested.append(whole)
        radius = float(np.sqrt(whole.sum() / np.pi))
        for _ in range(int(rng.integers(0, 4))):
            part = _fill(_outline(_point_in(whole, rng), radius * rng.uniform(0.3, 0.6), rng), side) * whole
            image = _paint(image, part, texture(side, rng, backdrop), rng)
            nested.append(part)
            inner = float(np.sqrt(part.sum() / np.pi))
            for _ in range(int(rng.integers(0, 3))):
                detail = _fill(_outline(_point_in(part, rng), inner * rng.uniform(0.3, 0.6), rng), side) * part
                image = _paint(image, detail, texture(side, rng, backdrop), rng)
                nested.append(detail)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), 0), np.float32)
    m = side // 4
    small = [cv2.resize(mask, (m, m), interpolation=cv2.INTER_AREA) for mask in nested]
    kept = [mask for mask in small if mask.mean() >= SMALLEST_AREA and mask.max() > 0.5]
    stack = np.stack(kept) if kept else np.zeros((0, m, m), np.float32)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), stack.astype(np.float32))


def _paint(image: FloatArray, mask: FloatArray, surface: FloatArray, rng: np.random.Generator) -> FloatArray:
    shade = surface * rng.uniform(0.8, 1.0)
    blended = image + (shade - image) * mask[..., None]
    return np.asarray(blended, np.float32)
