"""What a person drew with a smart tool, or another model left on a task, becomes prompts.

Legend: H, W height and width of the upright image in pixels; K points of a prompt. Label Studio gives
positions in percent of the displayed image, which is the upright one.

One prompt is one object. Boxes are objects of their own; positive points belong to the smallest box around
them, else to the one box there is, else they make an object by themselves, one for each first label, as the editor
connects them. Negative points belong to every object: they say where none of them is. A brush stroke is scribbled, not
filled in, so it speaks as points spread along it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import RegionError
from backend.label_studio.shapes import (
    check_size,
    finite,
    label_of,
    labels_by_id,
    labels_of,
    outline_of,
    percent_box,
    percent_point,
    region_to_mask,
    told_of,
)
from usam.errors import UsamError
from usam.prompts import Prompt

__all__ = ["LabelledPrompt", "label_of", "prompts_from_context", "prompts_from_task", "stroke_points"]

STROKE_POINTS = 5
"""Points that stand for one brush stroke."""
MAX_ITEMS = 500
_POINTS = ("keypointlabels", "keypoint")
_BOXES = ("rectanglelabels", "rectangle", "ellipselabels", "ellipse", "polygonlabels", "polygon")
_STROKES = ("brushlabels", "brush", "bitmasklabels", "bitmask")


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt in pixels of the upright image, the labels that the person or model gave it, in their order, and the
    control by which the first was told."""

    prompt: Prompt
    labels: tuple[str, ...] = ()
    told_by: str = ""

    @property
    def label(self) -> str | None:
        """The first label, None without one."""
        return self.labels[0] if self.labels else None


_Point = tuple[tuple[float, float], tuple[str, ...], str]
"""(x, y), its labels, and the control by which the first was told."""


@dataclass
class _Object:
    """One object while its prompt is being gathered."""

    labels: tuple[str, ...]
    told_by: str = ""
    box: npt.NDArray[np.float32] | None = None
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def area(self) -> float:
        return math.inf if self.box is None else float(np.prod(self.box[2:] - self.box[:2]))

    def holds(self, point: tuple[float, float]) -> bool:
        if self.box is None:
            return False
        x0, y0, x1, y1 = (float(v) for v in self.box)
        return x0 <= point[0] <= x1 and y0 <= point[1] <= y1


def prompts_from_context(result: Sequence[dict[str, Any]], image_hw: tuple[int, int]) -> list[LabelledPrompt]:
    """The prompts that the regions of an interactive context make, in the order in which they were drawn.

    To the editor an id is one region: labels of other controls stand beside it under the same id, and its outline
    counts once. The regions are of one image (`LabelConfig.for_result`). Raises `RegionError` for a region of an image
    of another size, without a position, or when nothing positive was drawn.
    """
    if len(result) > MAX_ITEMS:
        raise RegionError(f"at most {MAX_ITEMS} regions in a context", str(len(result)), "start a new region")
    labels = labels_by_id(result)
    objects: list[_Object] = []
    positive: list[_Point] = []
    negative: list[tuple[float, float]] = []
    for item in _each_once(result):
        kind = str(item.get("type", "")).lower()
        if kind not in _POINTS + _BOXES + _STROKES or not isinstance(item.get("value"), dict):
            continue
        check_size(item, image_hw)
        told, told_by = told_of(item, labels), _teller(item, labels, result)
        points: list[tuple[float, float]] = []
        if kind in _POINTS:
            points = [percent_point(item["value"], image_hw)]
        elif kind in _STROKES:
            points = stroke_points(region_to_mask(item, image_hw))
        elif is_positive(item):
            objects.append(_Object(told, told_by, _box(item, image_hw)))
        if is_positive(item):
            positive += [(point, told, told_by) for point in points]
        else:
            negative += points
    objects += _place(positive, objects)
    if not objects:
        raise RegionError(
            "at least one positive point, box or stroke",
            f"{len(negative)} negative ones" if negative else "none",
            "click on the object first",
        )
    return [LabelledPrompt(_prompt(o, negative, image_hw), o.labels, o.told_by) for o in objects]


def prompts_from_task(
    predictions: Iterable[dict[str, Any]], image_hw: tuple[int, int], image_name: str = ""
) -> list[LabelledPrompt]:
    """Prompts from what other models left on a task: its newest prediction with boxes, points or polygons.

    A region that cannot be read, or lies on another image than `image_name`, is passed over: what another model wrote
    must not stop us. Empty where there is nothing of use.
    """
    for prediction in sorted(predictions, key=lambda p: str(p.get("created_at", "")), reverse=True):
        result = prediction.get("result")
        regions = [r for r in result if isinstance(r, dict)] if isinstance(result, list) else []
        labels = labels_by_id(regions)
        prompts: list[LabelledPrompt] = []
        for region in _each_once(regions[:MAX_ITEMS]):
            if str(region.get("type", "")).lower() not in _POINTS + _BOXES:
                continue
            if image_name and region.get("to_name") not in (None, "", image_name):
                continue
            try:
                made = prompts_from_context([region], image_hw)
            except UsamError:
                continue
            told, told_by = told_of(region, labels), _teller(region, labels, regions[:MAX_ITEMS])
            prompts += [LabelledPrompt(one.prompt, told, told_by) for one in made]
        if prompts:
            return prompts
    return []


def is_positive(item: dict[str, Any]) -> bool:
    """Whether a region says `here` rather than `not here`; regions that do not say mean `here`."""
    return item.get("is_positive", True) not in (False, 0, "false", "0")


def stroke_points(mask: npt.NDArray[np.bool_], count: int = STROKE_POINTS) -> list[tuple[float, float]]:
    """At most `count` pixels (x, y) of a stroke (H, W), spread along it, off its rim where it is wide.

    Raises `RegionError` for an empty stroke.
    """
    import cv2

    if not mask.any():
        raise RegionError("a brush stroke with at least one pixel", "an empty one", "draw it again")
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    ys, xs = np.nonzero(depth >= min(2.0, float(depth.max())))
    if len(ys) > 20_000:
        keep = np.linspace(0, len(ys) - 1, 20_000).astype(int)
        ys, xs = ys[keep], xs[keep]
    xy = np.stack([xs, ys], axis=1).astype(np.float64)
    chosen = [int(np.argmin(((xy - xy.mean(0)) ** 2).sum(1)))]
    distance = ((xy - xy[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count and distance.max() > 1:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((xy - xy[chosen[-1]]) ** 2).sum(1))
    return [(float(xy[i, 0]), float(xy[i, 1])) for i in chosen]


def _each_once(result: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The regions of a result without those that another control wrote anew under the same id."""
    seen: set[tuple[str, str, str]] = set()
    for region in result:
        name, kind = region.get("id"), str(region.get("type", "")).lower().removesuffix("labels")
        key = str(name), kind, json.dumps(outline_of(region), sort_keys=True, default=repr)
        if name is None or key not in seen:
            yield region
        seen.add(key)


def _teller(region: dict[str, Any], labels: Mapping[str, tuple[str, ...]], result: Sequence[dict[str, Any]]) -> str:
    """The control by which the first of a region's labels was told: its own, or one beside it."""
    if not (told := told_of(region, labels)):
        return ""
    same = [region, *(one for one in result if one.get("id") is not None and one.get("id") == region.get("id"))]
    return next((str(one.get("from_name", "")) for one in same if told[0] in labels_of(one)), "")


def _place(positive: Sequence[_Point], boxes: Sequence[_Object]) -> list[_Object]:
    """Give each positive point, and its labels, to the object it belongs to; the new objects of the loose ones."""
    loose: dict[str | None, _Object] = {}
    for point, labels, told_by in positive:
        around = [o for o in boxes if o.holds(point)]
        if around:
            owner = min(around, key=lambda o: o.area)
        elif len(boxes) == 1:
            owner = boxes[0]
        else:
            owner = loose.setdefault(next(iter(labels), None), _Object(labels, told_by))
        owner.points.append(point)
        owner.labels = tuple(dict.fromkeys((*owner.labels, *labels)))
    return list(loose.values())


def _prompt(found: _Object, negative: Sequence[tuple[float, float]], image_hw: tuple[int, int]) -> Prompt:
    points = np.array([*found.points, *negative], np.float32).reshape(-1, 2)
    labels = np.array([1] * len(found.points) + [0] * len(negative), np.int32)
    return Prompt(points, labels, found.box).check(image_hw)


def _box(item: dict[str, Any], image_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The upright box (4,) xyxy in pixels around a rectangle, ellipse or polygon, within the image."""
    kind = str(item["type"]).lower()
    if kind.startswith("rectangle") and not finite(item["value"].get("rotation") or 0.0, "rotation"):
        box = percent_box(item["value"], image_hw)
    else:
        from usam.masks import mask_box

        box = mask_box(region_to_mask(item, image_hw))
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise RegionError("a box of at least 1 x 1 pixel", "a smaller one", "draw it again")
    return box
