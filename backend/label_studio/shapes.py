"""Label Studio's shapes, in percent of the displayed image, as pixels and masks.

Legend: H, W height and width of the upright image in pixels. Rotations are clockwise, in degrees, and turn a
rectangle about its upper left corner and an ellipse about its centre.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import RegionError
from usam.errors import ImageError

BoolMask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

OPAQUE = 128
"""Alpha from which a pixel of a brush or bitmask region is the object's: the editor's edges are soft."""
KINDS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
MASK_TYPES = frozenset(kind + suffix for kind in KINDS for suffix in ("", "labels"))
"""Types of regions that `region_to_mask` reads."""


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
            f"{drawn[1]} x {drawn[0]}",
            "the image is shown without its EXIF orientation" if turned else "the task's image has changed",
        )
    if finite(region.get("image_rotation") or 0, "image_rotation") % 360:
        raise RegionError("a region on an image not turned in the editor", "a turned one", "turn it back")


def finite(value: Any, name: str) -> float:
    """A finite number, else `RegionError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
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

    from usam.images import read_size

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
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except (binascii.Error, ImageError, OSError, ValueError, SyntaxError) as error:
        raise RegionError("a PNG data URL", f"{type(error).__name__}", "draw the region again") from error
    return np.asarray(alpha >= OPAQUE)


def _polygon(value: dict[str, Any], image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise RegionError("a polygon of at least 3 points", str(points)[:60], "draw the region again")
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
    turn = math.radians(finite(value.get("rotation") or 0, "rotation"))
    height, width = image_hw
    centre, radii = np.array([x, y]) * _scale(image_hw), np.array([rx, ry]) * _scale(image_hw)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    dx, dy = xs - centre[0], ys - centre[1]
    along = (dx * math.cos(turn) + dy * math.sin(turn)) / radii[0]
    across = (dy * math.cos(turn) - dx * math.sin(turn)) / radii[1]
    return np.asarray(along**2 + across**2 <= 1)


def _fill(outline: npt.NDArray[np.float64], image_hw: tuple[int, int]) -> BoolMask:
    from usam.masks import polygon_to_mask

    return polygon_to_mask(outline, image_hw)


def _scale(image_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    return np.array([image_hw[1], image_hw[0]]) / 100
