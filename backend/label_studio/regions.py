"""Masks to Label Studio regions, as the labelling configuration wants them, and back.

Legend: H, W height and width of the upright image in pixels; percent are of that image. The other
directions live in `prompts` (regions to prompts), `shapes` (a region to a mask) and `config` (the
configuration); their entrances are offered here too.

A region's score is the predicted IoU of its mask, 0..1, higher = better. The three gaps are said in
`meta.text`, which the editor shows, and in Number or TextArea controls named `task_gap`, `prompt_gap`,
`model_gap` or `predicted_iou`, where the configuration has them.

One object is one region. Under a generic `Labels` control it has a second result of the same id, with the label, as
the editor writes it; so have further labels that such controls take (`further_labels`). An object whose label is not
known goes without one: in the editor it then shows as unlabelled, a prompted one takes the label that is selected, and
nobody has to look for wrong guesses among right labels.
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
from backend.label_studio.config import LabelConfig, OutputKind, ScoreControl, UnknownLabel, parse_config
from backend.label_studio.further_labels import place_labels
from backend.label_studio.prompts import LabelledPrompt, label_of, prompts_from_context, prompts_from_task
from backend.label_studio.shapes import MASK_TYPES, region_to_mask
from usam.masks import Region, encode_rle, trace_regions, without_specks

__all__ = [
    "MASK_TYPES",
    "Drawing",
    "LabelledPrompt",
    "ScoredMask",
    "draw",
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
FAR_SHARE = 0.1
"""Parts of less than this share of a mask's area go where they lie farther from it than they are long: they are most
likely pieces of something else."""


@dataclass(frozen=True)
class Drawing:
    """A mask as one kind of control writes it, so that it need not be traced again: the region's value without its
    label, what to say about it, and (H, W) of the image. `facts` is all of it as JSON."""

    kind: OutputKind
    hw: tuple[int, int]
    value: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind, "hw": list(self.hw), "value": self.value, "notes": list(self.notes)}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Drawing:
        """What `facts` gave."""
        height, width = facts["hw"]
        return cls(facts["kind"], (height, width), facts["value"], tuple(facts["notes"]))


@dataclass(frozen=True, eq=False)
class ScoredMask:
    """A mask to be sent, or what was drawn of it before. `iou` is its predicted IoU, 0..1; `gaps` by name, -0.5..0.5,
    higher = more to gain. `label` is None where nobody told it; `label_score`, 0..1, is how sure a learned class is of
    it. `further_labels` came with it; `told_by` is the control by which it came. `name` is the region's id, made up
    where it is empty."""

    mask: npt.NDArray[np.bool_] | Drawing
    iou: float
    gaps: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    notes: tuple[str, ...] = ()
    label_score: float | None = None
    name: str = ""
    further_labels: tuple[str, ...] = ()
    told_by: str = ""


def masks_to_regions(
    masks: Sequence[ScoredMask],
    controls: LabelConfig,
    *,
    tolerance: float = 1.5,
    data: Mapping[str, Any] | None = None,
    unknown_label: UnknownLabel = "none",
) -> list[dict[str, Any]]:
    """The regions (with unique ids) that show these masks on the image of a configuration.

    One region a mask, in the control that offers its label, without its specks (`usam.masks.without_specks`); the
    parts of a polygon are joined by lines. Empty masks make none. `tolerance` is how far, in pixels, a polygon may run
    from the mask's outline; `data` is the task's, where it brings labels of its own; `unknown_label` says what an
    object gets whose label is not known. Raises `RegionError` for a score that is not finite.
    """
    regions: list[dict[str, Any]] = []
    sent: list[ScoredMask] = []
    for scored in masks:
        if not isinstance(scored.mask, Drawing) and not scored.mask.any():
            continue
        sent.append(scored)
        regions += _object_regions(scored, controls, tolerance, data, unknown_label)
    for gauge in controls.gauges:
        if not gauge.per_region and sent:
            regions.append(_image_gauge(gauge, sent))
    return regions


def validated(result: list[dict[str, Any]], score: float, controls: LabelConfig) -> list[dict[str, Any]]:
    """The same result, once the SDK's `LabelInterface` and our own checks accept it; else `RegionError`.

    The SDK leaves ids, region scores and lone polygon points unchecked; here they are.
    """
    controls.check([_with_short_rle(region) for region in result], score)
    for region in result:
        if "score" in region and not (math.isfinite(region["score"]) and 0 <= region["score"] <= 1):
            raise RegionError("region scores from 0 to 1", str(region["score"]), "report this")
        points = region["value"].get("points")
        if points is not None and len(points) < 3:
            raise RegionError("polygons of at least 3 points", str(len(points)), "report this")
    own = [r["id"] for r in result if r["from_name"] in controls.output_names]
    if len(set(own)) != len(own):
        raise RegionError("unique region ids", "the same twice", "report this")
    return result


def _with_short_rle(region: dict[str, Any]) -> dict[str, Any]:
    """For the SDK, which looks at each byte of a mask by itself: one byte where all are bytes."""
    rle = region["value"].get("rle")
    try:
        return region | {"value": region["value"] | {"rle": rle[:1]}} if rle and bytes(rle) else region
    except (TypeError, ValueError):
        return region


def _object_regions(
    scored: ScoredMask,
    controls: LabelConfig,
    tolerance: float,
    data: Mapping[str, Any] | None,
    unknown_label: UnknownLabel,
) -> list[dict[str, Any]]:
    """The results of one object, all under one id: its region, its label where another control takes it, its gauges."""
    told = () if scored.label is None else (scored.label, *scored.further_labels)
    placement = place_labels(told, controls, data, unknown_label, scored.told_by)
    output, written = placement.output, dict(placement.written)
    drawing = scored.mask if isinstance(scored.mask, Drawing) else draw(scored.mask, output.kind, tolerance)
    if drawing.kind != output.kind:
        raise RegionError(f"a drawing for a {output.kind} control", f"one for {drawing.kind}", "draw the mask again")
    value = dict(drawing.value)
    lines = [describe(scored), *scored.notes, *drawing.notes]
    if scored.label_score is not None and written and not placement.notes:
        lines.append(f"label by what was learnt, {_score(scored.label_score):.2f} sure")
    lines += placement.notes
    height, width = drawing.hw
    shared = {
        "id": scored.name or secrets.token_hex(8),
        "to_name": output.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    own = written.pop(output.source, []) if output.source is not None and output.label_key is not None else []
    region = shared | {
        "from_name": output.name,
        "type": output.type,
        "origin": "prediction",
        "score": _score(scored.iou),
        "meta": {"text": ["; ".join(lines)]},  # the editor puts nothing between several
        "value": value if output.label_key is None else value | {output.label_key: own},
    }
    beside = [
        shared
        | {
            "from_name": source.name,
            "type": source.type,
            "origin": "prediction",
            "value": value | {source.type: labels},
        }
        for source, labels in written.items()
    ]
    gauges = [
        shared | {"from_name": g.name, "type": g.kind, "value": _gauge_value(g, number)}
        for g in controls.gauges
        if g.per_region and (number := _quantity(scored, g.quantity)) is not None
    ]
    return [region, *beside, *gauges]


def draw(mask: npt.NDArray[np.bool_], kind: OutputKind, tolerance: float = 1.5) -> Drawing:
    """A mask (H, W) as a kind of control writes it, without specks (`usam.masks.without_specks`). `tolerance` as in
    `masks_to_regions`."""
    height, width = mask.shape
    value, notes = _value(without_specks(mask), kind, tolerance)
    return Drawing(kind, (height, width), value, tuple(notes))


def _value(mask: npt.NDArray[np.bool_], kind: OutputKind, tolerance: float) -> tuple[dict[str, Any], list[str]]:
    """The value of the region of a mask, without its label, and what to say about it."""
    height, width = mask.shape
    if kind == "brush":
        return {"format": "rle", "rle": encode_rle(mask)}, []
    if kind == "bitmask":
        return {"imageDataURL": png_data_url(mask)}, []
    if kind == "polygon":
        return _polygon(_near_parts(mask, tolerance), (height, width))
    corners = np.concatenate([part.outer for part in _near_parts(mask, 0)])
    (x0, y0), (x1, y1) = (corners.min(0) / [width, height]).tolist(), (corners.max(0) / [width, height]).tolist()
    box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    return {name: _percent(share) for name, share in box.items()} | {"rotation": 0}, []


def _near_parts(mask: npt.NDArray[np.bool_], tolerance: float) -> list[Region]:
    """The parts of a mask that are an object's own, the largest first: neither specks nor small and far away."""
    area = int(mask.sum())
    parts = trace_regions(mask, tolerance, MIN_RING_SHARE * area) or trace_regions(mask, tolerance)[:1]
    kept = parts[:1]
    for part in parts[1:]:
        low, high = part.outer.min(0), part.outer.max(0)
        gaps = [np.maximum(other.outer.min(0) - high, low - other.outer.max(0)).clip(0) for other in kept]
        near = min(float(np.hypot(*gap)) for gap in gaps) <= float(np.hypot(*(high - low)))
        if near or _ring_area(part.outer) >= FAR_SHARE * area:
            kept.append(part)
    return kept


def _ring_area(ring: npt.NDArray[np.floating[Any]]) -> float:
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _polygon(parts: Sequence[Region], image_hw: tuple[int, int]) -> tuple[dict[str, Any], list[str]]:
    """One ring through all parts and around their holes; what is joined by a line of no width is said."""
    height, width = image_hw
    holes = sum(len(part.holes) for part in parts)
    notes = [f"{len(parts)} parts, joined by a line"] if len(parts) > 1 else []
    if holes:
        notes.append(f"{holes} hole{'s' * (holes > 1)}, joined to the outline by a line")
    ring = Region(parts[0].outer, (*parts[0].holes, *(part.bridged() for part in parts[1:]))).bridged()
    points = [[_percent(x / width), _percent(y / height)] for x, y in ring.tolist()]
    return {"points": points, "closed": True}, notes


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
    gaps = {name: round(scored.gaps[name], 2) + 0.0 for name in GAPS if name in scored.gaps}  # no minus before nothing
    said += [f"{name.replace('_', ' ')} {gap:.2f}" for name, gap in gaps.items()]
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
