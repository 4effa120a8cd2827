"""Masks to Label Studio regions, as the labelling configuration wants them, and back.

Legend: H, W height and width of the upright image in pixels; percent are of that image. The other
directions live in `contexts` (regions to prompts), `geometry` (a region to a mask) and `controls` (the
configuration); their entrances are offered here too.

A region's score is the predicted IoU of its mask, 0..1, higher = better. The three gaps are said in
`meta.text`, which the editor shows, and in Number or TextArea controls named `task_gap`, `prompt_gap`,
`model_gap` or `predicted_iou`, where the configuration has them.
"""

from __future__ import annotations

import base64
import io
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import RegionError
from backend.label_studio.config import LabelConfig, ScoreControl, parse_config
from backend.label_studio.prompts import LabelledPrompt, label_of, prompts_from_context, prompts_from_task
from backend.label_studio.shapes import MASK_TYPES, region_to_mask
from usam.masks import encode_rle, mask_box, trace_regions, without_specks

__all__ = [
    "MASK_TYPES",
    "LabelledPrompt",
    "ScoredMask",
    "label_of",
    "masks_to_regions",
    "parse_config",
    "prompts_from_context",
    "prompts_from_task",
    "region_to_mask",
    "validated",
]

GAPS = ("task_gap", "prompt_gap", "model_gap")
MIN_RING_SHARE = 0.02
"""Rings of less than this share of a mask's area are not sent as polygons: specks."""


@dataclass(frozen=True, eq=False)
class ScoredMask:
    """A mask to be sent. `iou` is its predicted IoU, 0..1; `gaps` by name, -0.5..0.5, higher = more to
    gain."""

    mask: npt.NDArray[np.bool_]
    iou: float
    gaps: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    notes: tuple[str, ...] = ()


def masks_to_regions(
    masks: Sequence[ScoredMask], controls: LabelConfig, *, tolerance: float = 1.5
) -> list[dict[str, Any]]:
    """The regions (with unique ids) that show these masks in the output control of a configuration.

    One region a mask, without its specks (`usam.masks.without_specks`); polygons need one for each separate part.
    Empty masks make none. `tolerance` is how far, in pixels, a polygon may run from the mask's outline. Raises
    `RegionError` for a score that is not finite.
    """
    regions: list[dict[str, Any]] = []
    sent: list[ScoredMask] = []
    for scored in masks:
        if not scored.mask.any():
            continue
        sent.append(scored)
        for value, notes in _values(without_specks(scored.mask), controls, tolerance):
            regions += _with_gauges(scored, value, notes, controls)
    for gauge in controls.gauges:
        if not gauge.per_region and sent:
            regions.append(_image_gauge(gauge, sent))
    return regions


def validated(result: list[dict[str, Any]], score: float, controls: LabelConfig) -> list[dict[str, Any]]:
    """The same result, once the SDK's `LabelInterface` and our own checks accept it; else `RegionError`.

    The SDK leaves ids, region scores and lone polygon points unchecked; here they are.
    """
    controls.check(result, score)
    for region in result:
        if "score" in region and not (math.isfinite(region["score"]) and 0 <= region["score"] <= 1):
            raise RegionError("region scores from 0 to 1", str(region["score"]), "report this")
        points = region["value"].get("points")
        if points is not None and len(points) < 3:
            raise RegionError("polygons of at least 3 points", str(len(points)), "report this")
    own = [r["id"] for r in result if r["type"] == controls.output.type]
    if len(set(own)) != len(own):
        raise RegionError("unique region ids", "the same twice", "report this")
    return result


def _values(
    mask: npt.NDArray[np.bool_], controls: LabelConfig, tolerance: float
) -> list[tuple[dict[str, Any], list[str]]]:
    """The value of each region that a mask needs, without its label, and what to say about it."""
    height, width = mask.shape
    kind = controls.output.kind
    if kind == "brush":
        return [({"format": "rle", "rle": encode_rle(mask)}, [])]
    if kind == "bitmask":
        return [({"imageDataURL": png_data_url(mask)}, [])]
    if kind == "rectangle":
        x0, y0, x1, y1 = (float(v) for v in mask_box(mask))
        box = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
        return [({name: _percent(v) for name, v in box.items()} | {"rotation": 0}, [])]
    return _polygons(mask, tolerance)


def _polygons(mask: npt.NDArray[np.bool_], tolerance: float) -> list[tuple[dict[str, Any], list[str]]]:
    """One polygon for each part that is no speck; a hole is joined to its outline, and said."""
    height, width = mask.shape
    found = trace_regions(mask, tolerance, MIN_RING_SHARE * int(mask.sum())) or trace_regions(mask, tolerance)[:1]
    values: list[tuple[dict[str, Any], list[str]]] = []
    for number, part in enumerate(found, 1):
        notes = [f"part {number} of {len(found)}"] if len(found) > 1 else []
        if part.holes:
            holes = len(part.holes)
            notes.append(f"{holes} hole{'s' * (holes > 1)}, joined to the outline by a line")
        points = [[_percent(x / width), _percent(y / height)] for x, y in part.bridged().tolist()]
        values.append(({"points": points, "closed": True}, notes))
    return values


def _with_gauges(
    scored: ScoredMask, value: dict[str, Any], notes: Sequence[str], controls: LabelConfig
) -> list[dict[str, Any]]:
    output = controls.output
    label, guessed = output.choose_label(scored.label)
    said = [describe(scored), *scored.notes, *notes]
    if output.label_key is not None:
        value[output.label_key] = [label] if label is not None else []
        if guessed:
            said.append(f"label {label!r} is the first of the configuration: please check")
    height, width = scored.mask.shape
    shared = {
        "id": secrets.token_hex(8),
        "to_name": output.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    region = shared | {
        "from_name": output.name,
        "type": output.type,
        "origin": "prediction",
        "score": _score(scored.iou),
        "meta": {"text": said},
        "value": value,
    }
    gauges = [
        shared | {"from_name": g.name, "type": g.kind, "value": _gauge_value(g, number)}
        for g in controls.gauges
        if g.per_region and (number := _quantity(scored, g.quantity)) is not None
    ]
    return [region, *gauges]


def _image_gauge(gauge: ScoreControl, sent: Sequence[ScoredMask]) -> dict[str, Any]:
    """A control that is not per region shows the image's most doubtful object: highest gap, lowest IoU."""
    numbers = [n for s in sent if (n := _quantity(s, gauge.quantity)) is not None] or [0.0]
    worst = min(numbers) if gauge.quantity == "predicted_iou" else max(numbers)
    return {
        "id": secrets.token_hex(8),
        "from_name": gauge.name,
        "to_name": gauge.to_name,
        "type": gauge.kind,
        "value": _gauge_value(gauge, worst),
    }


def describe(scored: ScoredMask) -> str:
    """One line for people: `predicted IoU 0.83, task gap 0.10, prompt gap 0.03, model gap -0.01`."""
    said = [f"predicted IoU {_score(scored.iou):.2f}"]
    said += [f"{name.replace('_', ' ')} {scored.gaps[name]:.2f}" for name in GAPS if name in scored.gaps]
    return ", ".join(said)


def png_data_url(mask: npt.NDArray[np.bool_]) -> str:
    """A mask (H, W) as the PNG of a bitmask region: black where it is, transparent elsewhere, one bit a
    pixel."""
    from PIL import Image

    image = Image.fromarray(mask.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    out = io.BytesIO()
    image.save(out, "PNG", bits=1, transparency=0, compress_level=6)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _quantity(scored: ScoredMask, quantity: str) -> float | None:
    return scored.iou if quantity == "predicted_iou" else scored.gaps.get(quantity)


def _gauge_value(gauge: ScoreControl, number: float) -> dict[str, Any]:
    rounded = round(float(number), 4)
    return {"number": rounded} if gauge.kind == "number" else {"text": [f"{rounded:.4f}"]}


def _score(value: float) -> float:
    if not math.isfinite(value):
        raise RegionError("a finite score", str(value), "report this with the image")
    return round(min(max(float(value), 0.0), 1.0), 4)


def _percent(share: float) -> float:
    return round(min(max(share * 100, 0.0), 100.0), 4)
