"""What a person draws, as Label Studio sends it: points, boxes and other regions on a small picture."""

from __future__ import annotations

HW = (48, 64)
"""Height and width of the picture."""


def item(kind: str, value: dict[str, object], **rest: object) -> dict[str, object]:
    return {
        "id": "r",
        "type": kind,
        "from_name": "x",
        "to_name": "img",
        "original_width": HW[1],
        "original_height": HW[0],
        "image_rotation": 0,
        "value": value,
        **rest,
    }


def point(x: float, y: float, label: str = "A", positive: bool = True) -> dict[str, object]:
    return item("keypointlabels", {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}, is_positive=positive)


def box(x: float, y: float, w: float, h: float, label: str = "A") -> dict[str, object]:
    return item("rectanglelabels", {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]})
