"""Pictures of the demo project, drawn here: oranges and lemons on a wooden table, seen from above.

Each picture has its seed, so that it comes out the same on every machine and its true masks can be had again.
Oranges and lemons are what the project is about; leaves, plates and cups lie around them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

HW = (720, 960)
COUNT = 48
FRUIT = ("Orange", "Lemon")
"""What the demo project wants, as its labels call it."""
JPEG_QUALITY = 90
WOODS = ((94, 66, 46), (104, 84, 66), (96, 92, 90), (70, 92, 98), (122, 86, 56), (64, 52, 46))
_HANDLE = 0.42


@dataclass(frozen=True)
class SceneObject:
    """One thing on the table: what it is, and the pixels (H, W) of it that can be seen."""

    kind: str
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) in RGB and the things in it."""

    image: Image
    objects: tuple[SceneObject, ...]

    @property
    def fruit(self) -> tuple[SceneObject, ...]:
        """The oranges and lemons."""
        return tuple(thing for thing in self.objects if thing.kind in FRUIT)


@dataclass(frozen=True)
class _Light:
    """Where light comes from (x, y, z), how warm and how strong it is."""

    direction: Float
    colour: Float
    ambient: float


@dataclass(frozen=True)
class _Place:
    """Where a thing lies: centre and size in pixels, turned by an angle."""

    x: float
    y: float
    size: float
    angle: float


@dataclass(frozen=True)
class _Look:
    """A thing in a square patch: cover 0..1, colour (S, S, 3) 0..1 before light, height in pixels, gloss."""

    cover: Float
    colour: Float
    height: Float
    gloss: float


def draw_scene(number: int, seed: int = 0) -> Scene:
    """Picture `number` of the series `seed`, with its true masks.

    >>> scene = draw_scene(3)
    >>> scene.image.shape, {thing.kind for thing in scene.fruit} == {"Orange", "Lemon"}
    ((720, 960, 3), True)
    """
    rng = np.random.default_rng([seed, number])
    angle = rng.uniform(0, 2 * math.pi)
    warmth = rng.uniform(-0.05, 0.08)
    light = _Light(
        direction=_unit([math.cos(angle), math.sin(angle), rng.uniform(1.0, 1.7)]),
        colour=np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.float32(rng.uniform(0.85, 1.12)),
        ambient=float(rng.uniform(0.62, 0.74)),
    )
    canvas = _table(rng) * (0.72 + 0.28 * light.colour)
    objects: list[SceneObject] = []
    for kind, place in _arrange(rng):
        visible = _put(canvas, _LOOKS[kind](place, rng), place, light)
        objects = [SceneObject(one.kind, one.mask & ~visible) for one in objects]
        objects.append(SceneObject(kind, visible))
    canvas *= _falloff(light)[..., None]
    canvas += rng.normal(0, 0.008, HW).astype(np.float32)[..., None]
    image = (np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return Scene(image, tuple(objects))


def draw_scenes(folder: Path, count: int = COUNT, seed: int = 0) -> Path:
    """Write pictures `scene-01.jpg` and on to `folder`, those that are not there yet; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        path = folder / scene_name(number)
        if path.exists():
            continue
        pixels = draw_scene(number, seed).image
        done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert done
        partial = folder / f".{path.name}.partial"
        partial.write_bytes(data.tobytes())
        os.replace(partial, path)
    return folder


def scene_name(number: int) -> str:
    """File name of picture `number`."""
    return f"scene-{number:02d}.jpg"


# the arrangement


def _arrange(rng: np.random.Generator) -> Iterator[tuple[str, _Place]]:
    """Things and their places, the lowest first. Crockery and fruit keep their distance; leaves go under fruit."""
    wanted = [str(kind) for kind in rng.permutation(["Orange"] * rng.integers(2, 5) + ["Lemon"] * rng.integers(2, 4))]
    if rng.random() < 0.7:
        wanted.insert(0, "plate" if rng.random() < 0.5 else "cup")
    wanted += ["leaf"] * int(rng.integers(2, 4))
    placed: list[tuple[str, _Place]] = []
    for kind in wanted:
        for _ in range(60):
            place = _anywhere(kind, rng)
            if all(_apart(kind, place, *other) for other in placed):
                placed.append((kind, place))
                break
    placed.sort(key=lambda one: one[0] != "leaf")
    yield from placed


def _anywhere(kind: str, rng: np.random.Generator) -> _Place:
    low, high = {"Orange": (84, 116), "Lemon": (76, 92), "leaf": (76, 104), "plate": (140, 160), "cup": (92, 112)}[kind]
    size = float(rng.uniform(low, high))
    edge = _reach(kind, size) + 8
    x, y = rng.uniform(edge, HW[1] - edge), rng.uniform(edge, HW[0] - edge)
    return _Place(float(x), float(y), size, float(rng.uniform(0, 2 * math.pi)))


def _reach(kind: str, size: float) -> float:
    return size * {"Lemon": 1.45, "cup": 1.1 + _HANDLE}.get(kind, 1.0)


def _apart(kind: str, place: _Place, other_kind: str, other: _Place) -> bool:
    distance = math.hypot(place.x - other.x, place.y - other.y)
    share = 0.9 if kind == "leaf" and other_kind == "leaf" else 1.1
    return distance > share * (_reach(kind, place.size) + _reach(other_kind, other.size))


# looks: each fills a patch around the thing


def _patch(place: _Place, margin: float) -> tuple[Float, Float]:
    """Coordinates x, y (S, S) around the centre in units of the size, turned so that x runs along the thing."""
    half = math.ceil(place.size * margin) + 2
    side = np.arange(-half, half + 1, dtype=np.float32) / np.float32(place.size)
    x, y = np.meshgrid(side, side)
    c, s = np.float32(math.cos(place.angle)), np.float32(math.sin(place.angle))
    return c * x + s * y, c * y - s * x


def _cover(inside: Float, size: float) -> Float:
    """Cover 0..1 of pixels from a function that is positive inside, in units of the size."""
    gradient = np.hypot(*np.gradient(inside)) * size + np.float32(1e-6)
    cover: Float = np.clip(inside * size / gradient + 0.5, 0, 1).astype(np.float32)
    return cover


def _noise(rng: np.random.Generator, shape: tuple[int, ...], grain_y: float, grain_x: float) -> Float:
    """Smooth noise (H, W) of mean 0 and deviation about 1, with grains of so many pixels."""
    small = rng.normal(0, 1, (max(2, int(shape[0] / grain_y) + 2), max(2, int(shape[1] / grain_x) + 2)))
    return cv2.resize(small.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)


def _specks(rng: np.random.Generator, shape: tuple[int, ...], count: int, strength: float) -> Float:
    """Factor (H, W, 1) that darkens a few small specks."""
    specks = np.zeros(shape, np.float32)
    for _ in range(count):
        at = tuple(int(v) for v in rng.integers(0, shape[0], 2))
        cv2.circle(specks, at, int(rng.integers(1, 4)), float(rng.uniform(0.3, 1)), -1, cv2.LINE_AA)
    return (1 - strength * cv2.GaussianBlur(specks, (0, 0), 0.8))[..., None]


def _orange(place: _Place, rng: np.random.Generator) -> _Look:
    x, y = _patch(place, 1.06)
    turn = np.arctan2(y, x)
    radius = 1 + 0.012 * np.sin(2 * turn + rng.uniform(0, 6)) + 0.008 * np.sin(3 * turn + rng.uniform(0, 6))
    far = np.hypot(x, y) / radius
    height = place.size * np.sqrt(np.clip(1 - far**2, 0, 1))
    height += 0.28 * _noise(rng, x.shape, 4, 4) + 0.16 * _noise(rng, x.shape, 2, 2)
    ripe = np.array([0.98, rng.uniform(0.47, 0.58), rng.uniform(0.03, 0.1)], np.float32)
    colour = ripe * (1 + 0.03 * _noise(rng, x.shape, 30, 30)[..., None]) * _specks(rng, x.shape, 9, 0.35)
    stem_x, stem_y = rng.uniform(-0.45, 0.45, 2)
    to_stem = np.hypot(x - stem_x, y - stem_y)
    star = np.clip(1.6 - to_stem / (0.05 + 0.018 * np.cos(5 * np.arctan2(y - stem_y, x - stem_x))), 0, 1)[..., None]
    colour = colour * (1 - star) + star * np.array([0.36, 0.4, 0.16], np.float32)
    height -= place.size * 0.1 * np.exp(-((to_stem / 0.13) ** 2))
    return _Look(_cover(1 - far, place.size), colour, height.astype(np.float32), 0.32)


def _lemon(place: _Place, rng: np.random.Generator) -> _Look:
    x, y = _patch(place, 1.5)
    length = np.float32(1.24)
    along = np.clip(np.abs(x) / length, 0, 1)
    body = np.clip(1 - along**2.3, 0, 1) ** 0.6
    tip = 0.17 * np.sqrt(np.clip(1 - ((np.abs(x) - length * 0.97) / 0.19) ** 2, 0, 1))
    width = np.maximum(np.float32(rng.uniform(0.84, 0.92)) * body, np.where(x > 0, tip, 0.6 * tip))
    off = np.abs(y) / np.maximum(width, np.float32(1e-3))
    height = place.size * width * np.sqrt(np.clip(1 - off**2, 0, 1))
    height = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 1.5)
    height += 0.4 * _noise(rng, x.shape, 6, 6) + 0.16 * _noise(rng, x.shape, 3, 3)
    ripe = np.array([0.97, rng.uniform(0.8, 0.87), rng.uniform(0.14, 0.26)], np.float32)
    green = np.array([0.72, 0.78, 0.2], np.float32)
    unripe = np.clip((np.abs(x) - 0.85) * rng.uniform(0.4, 1.4), 0, 0.7)[..., None]
    colour = (ripe * (1 - unripe) + green * unripe) * (1 + 0.03 * _noise(rng, x.shape, 24, 24)[..., None])
    inside = cv2.GaussianBlur((off < 1).astype(np.float32) * (width > 0.02), (0, 0), 1.2)
    cover = np.clip((inside - 0.5) * 2 + 0.5, 0, 1).astype(np.float32)
    return _Look(cover, colour * _specks(rng, x.shape, 10, 0.3), height, 0.36)


def _leaf(place: _Place, rng: np.random.Generator) -> _Look:
    x, y = _patch(place, 1.08)
    rib = y - np.float32(rng.uniform(-0.22, 0.22)) * (x**2 - 0.4)
    width = np.float32(rng.uniform(0.34, 0.46)) * np.clip(1 - x**2, 0, 1) ** 0.8 * (1 - 0.25 * x)
    inside = width - np.abs(rib)
    veins = np.abs(np.sin(x * 9 - np.abs(rib) * 7))
    lines = np.clip(1 - veins * 7, 0, 1) * 0.35 + np.clip(1 - np.abs(rib) / 0.018, 0, 1) * 0.8
    green = np.array([rng.uniform(0.2, 0.34), rng.uniform(0.42, 0.54), rng.uniform(0.14, 0.22)], np.float32)
    colour = green * (1 + 0.08 * _noise(rng, x.shape, 16, 16)[..., None])
    colour = colour + lines[..., None] * np.array([0.16, 0.17, 0.08], np.float32)
    height = place.size * 0.16 * (np.abs(rib) ** 0.7 + 0.06 * veins)
    return _Look(_cover(inside, place.size), colour, height.astype(np.float32), 0.16)


def _plate(place: _Place, rng: np.random.Generator) -> _Look:
    x, y = _patch(place, 1.04)
    far = np.hypot(x, y)
    glaze = np.array(_pick(rng, ((0.9, 0.89, 0.86), (0.72, 0.8, 0.84), (0.86, 0.82, 0.74))), np.float32)
    band = np.array(_pick(rng, ((0.2, 0.32, 0.5), (0.55, 0.25, 0.22), (0.25, 0.4, 0.34))), np.float32)
    ring = (np.clip(1 - np.abs(far - 0.9) / 0.022, 0, 1) * 0.9)[..., None]
    colour = glaze * (1 - ring) + band * ring
    height = place.size * 0.5 * (0.3 * np.clip(far - 0.62, 0, 0.4) ** 0.6 + 0.05 * far**2)
    return _Look(_cover(1 - far, place.size), colour, cv2.GaussianBlur(height, (0, 0), 2), 0.3)


def _cup(place: _Place, rng: np.random.Generator) -> _Look:
    x, y = _patch(place, 1.15 + _HANDLE)
    far = np.hypot(x, y)
    handle = 0.1 - np.abs(np.hypot((x - 1.1) / 1.1, y) - 0.26)
    glaze = np.array(_pick(rng, ((0.88, 0.88, 0.86), (0.3, 0.42, 0.5), (0.55, 0.3, 0.28))), np.float32)
    coffee = np.array([0.27, 0.16, 0.09], np.float32) * (1 + 0.1 * _noise(rng, x.shape, 22, 22)[..., None])
    foam = np.clip((far - 0.62) / 0.2, 0, 1)[..., None] ** 2
    drink = coffee * (1 - foam) + foam * np.array([0.62, 0.44, 0.27], np.float32)
    fill = np.clip((0.84 - far) * place.size, 0, 1)[..., None]
    height = place.size * 0.35 * np.sqrt(np.clip(1 - ((far - 0.93) / 0.1) ** 2, 0, 1)) * (1 - fill[..., 0])
    height += place.size * 0.1 * np.clip(handle * 10, 0, 1) * (far > 1)
    inside = np.maximum(1 - far, handle)
    return _Look(
        _cover(inside, place.size),
        glaze * (1 - fill) + drink * fill,
        cv2.GaussianBlur(height.astype(np.float32), (0, 0), 2),
        0.34,
    )


_LOOKS = {"Orange": _orange, "Lemon": _lemon, "leaf": _leaf, "plate": _plate, "cup": _cup}


# table, light and shadow


def _table(rng: np.random.Generator) -> Float:
    """Planks of one wood (H, W, 3), 0..1, with grain along them."""
    height, width = HW
    wood = np.array(WOODS[int(rng.integers(len(WOODS)))], np.float32) / 255
    tone = 0.035 * _noise(rng, HW, 3, 160) + 0.03 * _noise(rng, HW, 14, 300)
    y, planks = 0, np.zeros((height, 1), np.float32)
    gaps = np.zeros((height, 1), np.float32)
    while y < height:
        wide = int(rng.integers(120, 200))
        planks[y : y + wide] = rng.normal(0, 0.06)
        gaps[y : y + 2] = 1
        grain = _noise(rng, (min(wide, height - y), width), 40, 420)
        tone[y : y + wide] += 0.022 * np.sin(9 * grain + np.arange(len(grain), dtype=np.float32)[:, None] / 3)
        y += wide
    shade = 1 + tone + planks
    shade *= 1 - 0.5 * cv2.GaussianBlur(gaps, (1, 5), 0.9).reshape(height, 1)
    table: Float = (wood * shade[..., None]).astype(np.float32)
    return table if rng.random() < 0.6 else np.ascontiguousarray(_along_width(table))


def _along_width(table: Float) -> Float:
    """The same planks, running from top to bottom."""
    turned: Float = cv2.resize(np.ascontiguousarray(np.rot90(table)), HW[::-1], interpolation=cv2.INTER_AREA)
    return turned


def _falloff(light: _Light) -> Float:
    """Factor (H, W): brighter towards the light, darker in the corners."""
    y, x = np.meshgrid(np.linspace(-1, 1, HW[0]), np.linspace(-1, 1, HW[1]), indexing="ij")
    towards = x * light.direction[0] + y * light.direction[1]
    factor: Float = (1 + 0.12 * towards - 0.09 * (x**2 + y**2)).astype(np.float32)
    return factor


def _put(canvas: Float, look: _Look, place: _Place, light: _Light) -> Mask:
    """Draw a thing and its shadow on `canvas`; returns its pixels (H, W)."""
    half = look.cover.shape[0] // 2
    top, left = round(place.y) - half, round(place.x) - half
    rows, columns = (slice(max(0, v), min(side, v + 2 * half + 1)) for v, side in zip((top, left), HW, strict=True))
    inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    cover = np.zeros(HW, np.float32)
    cover[rows, columns] = look.cover[inner]
    _cast_shadow(canvas, cover, float(look.height.max()), light)
    lit = _lit(look, light)[inner]
    amount = look.cover[inner][..., None]
    canvas[rows, columns] = canvas[rows, columns] * (1 - amount) + lit * amount
    return cover > 0.5


def _cast_shadow(canvas: Float, cover: Float, height: float, light: _Light) -> None:
    small = cv2.resize(cover, (HW[1] // 4, HW[0] // 4), interpolation=cv2.INTER_AREA)
    reach = 0.45 * height / float(light.direction[2]) / 4
    shift = np.array([[1, 0, -light.direction[0] * reach], [0, 1, -light.direction[1] * reach]], np.float32)
    cast = cv2.GaussianBlur(cv2.warpAffine(small, shift, small.shape[::-1]), (0, 0), 0.6 + height / 28)
    contact = cv2.GaussianBlur(small, (0, 0), 1.5)
    shadow = cv2.resize(np.maximum(0.3 * cast, 0.25 * contact), HW[::-1], interpolation=cv2.INTER_LINEAR)
    canvas *= 1 - shadow[..., None]


def _lit(look: _Look, light: _Light) -> Float:
    """The thing's colour (S, S, 3) under the light."""
    slope_y, slope_x = np.gradient(look.height)
    steep = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    normal = np.stack([-slope_x * steep, -slope_y * steep, steep], axis=-1)
    facing = normal @ light.direction
    halfway = _unit(light.direction + np.array([0, 0, 1], np.float32))
    shine = look.gloss * np.clip(normal @ halfway, 0, 1) ** 28
    brightness = light.ambient + (1.08 - light.ambient) * np.clip(facing, 0, 1)
    lit: Float = look.colour * brightness[..., None] * light.colour + 0.8 * shine[..., None]
    return lit


def _unit(vector: npt.ArrayLike) -> Float:
    array = np.asarray(vector, np.float32)
    unit: Float = array / np.linalg.norm(array)
    return unit


def _pick(rng: np.random.Generator, choices: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    return choices[int(rng.integers(len(choices)))]
