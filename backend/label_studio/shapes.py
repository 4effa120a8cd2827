"""Label Studio's shapes, in percent of the displayed image, as pixels and masks.

Legend: H, W height and width of the upright image in pixels. Rotations are clockwise, in degrees, and turn a
rectangle about its upper left corner and an ellipse about its centre.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import RegionError
from backend.label_studio.records import is_text
from usam.errors import ImageError

BoolMask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

ROWS_AT_ONCE = 256
FARTHEST = 1e6
"""Percent of the image beyond which an ellipse was not drawn by a person."""
OPAQUE = 128
"""Alpha from which a pixel of a brush or bitmask region is the object's: the editor's edges are soft."""
KINDS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
MASK_TYPES = frozenset(kind + suffix for kind in KINDS for suffix in ("", "labels"))
"""Types of regions that `region_to_mask` reads."""
MAX_NUMBER = 1e6
"""Largest percentage or angle that is taken: what is beyond lies nowhere near an image."""
MAX_CORNERS = 100_000
MAX_OBJECTS = 1000
"""Objects of one annotation that are looked at: each costs time, and others wait for their turn."""
MAX_NAME = 64
"""Longest region id, in characters, that is kept as it is."""


@dataclass(frozen=True)
class DrawnMask:
    """One object of an annotation: `name` is unique in it and can be stored, `region` is the result with its outline.

    `label` may stand in another result under the same id. `image` is the image tag it was drawn on, empty where the
    region does not say.
    """

    name: str
    region: dict[str, Any] = field(repr=False)
    label: str | None = None
    image: str = ""

    @property
    def box_only(self) -> bool:
        """Whether it says where the object is, but not which pixels it has."""
        return str(self.region["type"]).lower().startswith("rectangle")


def drawn_masks(result: Iterable[Any]) -> tuple[list[DrawnMask], list[str]]:
    """The objects of an annotation's result that have an outline, and what is left out of it and why.

    To the editor an id is one region, however many controls have a result under it: the first outline counts, and a
    second label is said. Ids that are missing, too long to be stored or no text get a name of their own.
    """
    regions = [region for region in result if isinstance(region, dict)]
    labels = labels_by_id(regions)
    drawn: dict[str, DrawnMask] = {}
    more: dict[str, tuple[str, ...]] = {}
    left_out: list[str] = []
    for number, region in enumerate(regions):
        if str(region.get("type", "")).lower() not in MASK_TYPES:
            continue
        given = region.get("id")
        name = _storable_name(given, number)
        told = told_of(region, labels)
        label = told[0] if told else None
        if not is_text(label or ""):
            left_out.append(f"region {name}: its label is no text that can be stored")
            continue
        earlier = drawn.get(name)
        if earlier is None and len(drawn) >= MAX_OBJECTS:
            left_out.append(f"region {name} and those after it: only the first {MAX_OBJECTS} are used")
            break
        if earlier is None:
            drawn[name] = DrawnMask(name, region, label, _text(region.get("to_name")))
            more[name] = told[1:]
        elif outline_of(earlier.region) != outline_of(region):
            left_out.append(f"region {name}: a second outline under the same id; the first is used")
    for name, others in more.items():
        if others:
            also = " and ".join(repr(label[:40]) for label in others[:4])
            left_out.append(f"region {name}: also labelled {also}; the first label, {drawn[name].label!r}, is used")
    return list(drawn.values()), left_out


def masks_on(image: str, result: Iterable[Any]) -> list[DrawnMask]:
    """Of `drawn_masks`, the objects on this image; those that do not say where they lie are."""
    return [one for one in drawn_masks(result)[0] if one.image in ("", image)]


def label_of(region: Mapping[str, Any]) -> str | None:
    """The first label of a region; None where it has none."""
    return next(iter(labels_of(region)), None)


def labels_of(region: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a region, under its own type's key or `labels`, each once and in their order.

    What a person chose about it (`Choices` with `perRegion`) is no label.
    """
    value, kind = region.get("value"), str(region.get("type", "")).lower()
    if not isinstance(value, dict):
        return ()
    for key in (kind, "labels") if kind.endswith("labels") else ("labels",):
        labels = value.get(key)
        told = [label for label in labels if isinstance(label, str) and label] if isinstance(labels, list) else []
        if told:
            return tuple(dict.fromkeys(told))
    return ()


def labels_by_id(result: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """All labels of each id, in their order: other controls write theirs beside the region, under the same id."""
    labels: dict[str, tuple[str, ...]] = {}
    for region in result:
        found = labels_of(region)
        if found and region.get("id") is not None:
            name = str(region["id"])
            labels[name] = tuple(dict.fromkeys((*labels.get(name, ()), *found)))
    return labels


def told_of(region: Mapping[str, Any], labels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """All labels of a region, its own before those that stand beside it under its id (`labels_by_id`)."""
    return tuple(dict.fromkeys((*labels_of(region), *labels.get(str(region.get("id")), ()))))


def region_to_mask(region: dict[str, Any], image_hw: tuple[int, int]) -> BoolMask:
    """The mask (H, W) of a brush, bitmask, polygon, rectangle or ellipse region.

    Raises `RegionError` for another type, a malformed value, or a region of an image of another size,
    `MaskError` for run lengths that are malformed.
    """
    kind = str(region.get("type", "")).lower().removesuffix("labels")
    value = region.get("value")
    if kind not in KINDS or not isinstance(value, dict):
        raise RegionError(f"a region of type {', '.join(KINDS)}", repr(region.get("type")), "skip it")
    check_size(region, image_hw)
    if kind == "brush":
        return _from_rle(value, image_hw)
    if kind == "bitmask":
        return _from_png(value, image_hw)
    if kind == "polygon":
        return _fill(_polygon(value, image_hw), image_hw)
    if kind == "rectangle":
        return _fill(_rectangle(value, image_hw), image_hw)
    return _ellipse(value, image_hw)


def _storable_name(given: Any, number: int) -> str:
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 10**18:
        given = str(given)
    if isinstance(given, str) and 0 < len(given) <= MAX_NAME and is_text(given) and given[0] != "#":
        return given
    if isinstance(given, str) and given:
        return "#" + hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"#{number}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def outline_of(region: Mapping[str, Any]) -> dict[str, Any] | None:
    """A region's value without its labels."""
    value = region.get("value")
    if not isinstance(value, dict):
        return None
    return {name: part for name, part in value.items() if not name.endswith("labels")}


def check_size(region: dict[str, Any], image_hw: tuple[int, int]) -> None:
    """Raise `RegionError` where a region was drawn on an image of another size, or on a turned one.

    Regions that do not say their image's size are taken as fitting.
    """
    height, width = image_hw
    drawn = region.get("original_height"), region.get("original_width")
    if None not in drawn and drawn != (height, width):
        turned = drawn == (width, height)
        raise RegionError(
            f"a region on an image of {width} x {height} pixels",
            f"{str(drawn[1])[:20]} x {str(drawn[0])[:20]}",
            "the image is shown without its EXIF orientation" if turned else "the task's image has changed",
        )
    if finite(region.get("image_rotation") or 0, "image_rotation") % 360:
        raise RegionError("a region on an image not turned in the editor", "a turned one", "turn it back")


def finite(value: Any, name: str) -> float:
    """A number from -1e6 to 1e6, else `RegionError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise RegionError(f"a finite number as {name}", repr(value)[:60], "draw the region again")
    return float(value)


def percent_point(value: dict[str, Any], image_hw: tuple[int, int]) -> tuple[float, float]:
    """(x, y) in pixels, on the image: a click on its very edge counts as the last pixel."""
    height, width = image_hw
    x = finite(value.get("x"), "x") * width / 100
    y = finite(value.get("y"), "y") * height / 100
    if not (-1 <= x <= width + 1 and -1 <= y <= height + 1):
        raise RegionError("a point on the image", f"({x:.0f}, {y:.0f}) on {width} x {height}", "click again")
    return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)


def percent_box(value: dict[str, Any], image_hw: tuple[int, int]) -> FloatArray:
    """(4,) xyxy in pixels of an upright rectangle, cut to the image."""
    corners = _rectangle({**value, "rotation": 0}, image_hw)
    height, width = image_hw
    low, high = corners.min(0), corners.max(0)
    return np.array([max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)], np.float32)


def _from_rle(value: dict[str, Any], image_hw: tuple[int, int]) -> BoolMask:
    from usam.masks import decode_rle

    rle = value.get("rle")
    if not isinstance(rle, list):
        raise RegionError("run lengths under `rle`", type(rle).__name__, "draw the region again")
    return np.asarray(decode_rle(rle, image_hw) >= OPAQUE)


def _from_png(value: dict[str, Any], image_hw: tuple[int, int]) -> BoolMask:
    from PIL import Image

    from usam.images import load_whole, read_size

    head, _, body = str(value.get("imageDataURL", "")).partition(",")
    height, width = image_hw
    if not head.startswith("data:image/png") or len(body) > 8 * height * width + 100_000:
        raise RegionError("a PNG data URL of the image's size", repr(head[:40]), "draw the region again")
    try:
        data = base64.b64decode(body, validate=True)
        found = read_size(data, max_pixels=height * width)
        if found != image_hw:
            raise RegionError(
                f"a bitmask of {width} x {height} pixels", f"{found[1]} x {found[0]}", "draw the region again"
            )
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            load_whole(image, data)
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (binascii.Error, ImageError, OSError, ValueError, SyntaxError) as error:
        raise RegionError("a PNG data URL", f"{type(error).__name__}", "draw the region again") from error
    return np.asarray(alpha >= OPAQUE)


def _polygon(value: dict[str, Any], image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise RegionError("a polygon of at least 3 points", repr(points)[:60], "draw the region again")
    if len(points) > MAX_CORNERS:
        raise RegionError(f"a polygon of at most {MAX_CORNERS} points", str(len(points)), "draw the region again")
    rows = [(finite(p[0], "x"), finite(p[1], "y")) for p in points if isinstance(p, list | tuple) and len(p) == 2]
    if len(rows) != len(points):
        raise RegionError("polygon points as [x, y]", "others", "draw the region again")
    return np.array(rows) * _scale(image_hw)


def _rectangle(value: dict[str, Any], image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    x, y, w, h = (finite(value.get(name), name) for name in ("x", "y", "width", "height"))
    if w <= 0 or h <= 0:
        raise RegionError("a rectangle of width and height above 0", f"{w:g} x {h:g}", "draw it again")
    turn = math.radians(finite(value.get("rotation") or 0, "rotation"))
    corner = np.array([x, y]) * _scale(image_hw)
    sides = np.array([[0, 0], [w, 0], [w, h], [0, h]]) * _scale(image_hw)
    turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(corner + sides @ turned)


def _ellipse(value: dict[str, Any], image_hw: tuple[int, int]) -> BoolMask:
    x, y, rx, ry = (finite(value.get(name), name) for name in ("x", "y", "radiusX", "radiusY"))
    if rx <= 0 or ry <= 0:
        raise RegionError("an ellipse with radii above 0", f"{rx:g} x {ry:g}", "draw the region again")
    if max(abs(x), abs(y), rx, ry) > FARTHEST:
        raise RegionError("an ellipse near its image", f"one of {rx:g} x {ry:g} % at {x:g}, {y:g}", "draw it again")
    turn = math.radians(finite(value.get("rotation") or 0, "rotation"))
    height, width = image_hw
    centre, radii = np.array([x, y]) * _scale(image_hw), np.array([rx, ry]) * _scale(image_hw)
    cos, sin = math.cos(turn), math.sin(turn)
    reach = np.hypot(radii[0] * np.array([cos, sin]), radii[1] * np.array([sin, cos]))
    left, top = (int(low) for low in np.clip(centre - reach - 1, 0, [width, height]))
    right, bottom = (int(high) for high in np.clip(centre + reach + 2, 0, [width, height]))
    mask = np.zeros(image_hw, np.bool_)
    dx = np.arange(left, right)[None] + 0.5 - centre[0]
    for start in range(top, bottom, ROWS_AT_ONCE):  # in its own box, a few rows at a time
        end = min(start + ROWS_AT_ONCE, bottom)
        dy = np.arange(start, end)[:, None] + 0.5 - centre[1]
        with np.errstate(over="ignore", invalid="ignore"):
            along, across = (dx * cos + dy * sin) / radii[0], (dy * cos - dx * sin) / radii[1]
            mask[start:end, left:right] = along**2 + across**2 <= 1
    return mask


def _fill(outline: npt.NDArray[np.float64], image_hw: tuple[int, int]) -> BoolMask:
    from usam.masks import polygon_to_mask

    return polygon_to_mask(outline, image_hw)


def _scale(image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    return np.array([image_hw[1], image_hw[0]]) / 100
