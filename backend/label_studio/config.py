"""What a labelling configuration offers: where prompts come from, where masks go, where gaps can be shown.

A configuration is parsed once by the SDK's `LabelInterface`, which also judges what we answer, and kept: a
click must not wait for XML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from backend.errors import LabelConfigError, RegionError

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.interface import LabelInterface

OutputKind = Literal["brush", "bitmask", "polygon", "rectangle"]

OUTPUTS: dict[str, OutputKind] = {
    "BrushLabels": "brush",
    "Brush": "brush",
    "BitmaskLabels": "bitmask",
    "Bitmask": "bitmask",
    "PolygonLabels": "polygon",
    "Polygon": "polygon",
    "RectangleLabels": "rectangle",
    "Rectangle": "rectangle",
}
"""Tags that can hold a mask, the most faithful first."""
PROMPTS = ("KeyPointLabels", "KeyPoint", "RectangleLabels", "Rectangle", "BrushLabels", "Brush")
QUANTITIES = ("task_gap", "prompt_gap", "model_gap", "predicted_iou")
MAX_CONFIG_CHARS = 1_000_000


@dataclass(frozen=True)
class Output:
    """The control that receives our regions. `type` is the region's type, `label_key` its key for labels
    (None for a control without labels); `labels` is empty where a task brings its own."""

    kind: OutputKind
    name: str
    to_name: str
    type: str
    label_key: str | None
    labels: tuple[str, ...]

    def choose_label(self, wanted: str | None) -> tuple[str | None, bool]:
        """The label of a region that a smart control called `wanted`, and whether it is a guess."""
        if self.label_key is None:
            return None, False
        if wanted is not None and (wanted in self.labels or not self.labels):
            return wanted, False
        if not self.labels:
            return None, False
        return self.labels[0], len(self.labels) > 1


@dataclass(frozen=True)
class PromptControl:
    """A control whose regions prompt the model."""

    name: str
    tag: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ScoreControl:
    """A Number or TextArea control named after a quantity, which then shows it."""

    name: str
    to_name: str
    quantity: str
    kind: Literal["number", "textarea"]
    per_region: bool


@dataclass(frozen=True)
class LabelConfig:
    """One parsed labelling configuration."""

    output: Output
    smart: tuple[PromptControl, ...]
    gauges: tuple[ScoreControl, ...]
    image_name: str
    image_key: str
    """Key of the image in a task's data."""
    interface: LabelInterface = field(repr=False, compare=False)

    def image_value(self, data: dict[str, Any]) -> str:
        """Where a task's image is. Raises `LabelConfigError` where the task has none."""
        value = data.get(self.image_key)
        if not isinstance(value, str) or not value.strip():
            raise LabelConfigError(
                f"an address in the task's data under `{self.image_key}`",
                "nothing" if value in (None, "") else type(value).__name__,
                "check the Image tag's value against the imported tasks",
            )
        return value.strip()

    def check(self, result: Sequence[dict[str, Any]], score: float) -> None:
        """Raise `RegionError` where the SDK would not take this as a prediction."""
        prediction = {"result": list(result), "score": score}
        validate: Callable[..., list[str]] = self.interface.validate_prediction
        errors = validate(prediction, return_errors=True)
        if errors:
            shown = str(errors[0])
            raise RegionError(
                "a prediction that fits the labelling configuration",
                shown if len(shown) <= 300 else shown[:300] + "...",
                "report this with the labelling configuration",
            )


@lru_cache(maxsize=64)
def parse_config(label_config: str) -> LabelConfig:
    """Parse a labelling configuration, or give back the parsed one.

    Raises `LabelConfigError` where it is not XML, has no image, or no control on that image can hold a mask.
    """
    interface = _interface(label_config)
    images = {o.name: o for o in interface.objects if o.tag == "Image"}
    controls = [c for c in interface.controls if c.to_name and c.to_name[0] in images]
    candidates = [c for c in controls if c.tag in OUTPUTS]
    if not candidates:
        raise LabelConfigError(
            "an Image tag with BrushLabels, BitmaskLabels, PolygonLabels or RectangleLabels on it",
            ", ".join(sorted({c.tag for c in interface.controls})) or "no controls",
            "add one of them to the labelling configuration",
        )
    ranks = list(OUTPUTS)
    chosen = min(candidates, key=lambda c: (_is_smart(c), ranks.index(c.tag)))
    image = images[chosen.to_name[0]]
    value = image.attr.get("value") or ""
    if not value.startswith("$") or len(value) < 2:
        raise LabelConfigError('an Image tag with value="$name"', repr(value or "valueList"), "use one image per task")
    labelled = chosen.tag.endswith("Labels")
    return LabelConfig(
        output=Output(
            kind=OUTPUTS[chosen.tag],
            name=chosen.name,
            to_name=image.name,
            type=chosen.tag.lower(),
            label_key=chosen.tag.lower() if labelled else None,
            labels=tuple(chosen.labels or ()) if labelled else (),
        ),
        smart=tuple(
            PromptControl(c.name, c.tag, tuple(c.labels or ()))
            for c in controls
            if c.tag in PROMPTS and c.to_name[0] == image.name and _is_smart(c)
        ),
        gauges=tuple(gauge for c in controls if (gauge := _gauge(c, image.name)) is not None),
        image_name=image.name,
        image_key=value[1:],
        interface=interface,
    )


def _interface(label_config: str) -> LabelInterface:
    from label_studio_sdk.label_interface.interface import LabelInterface

    if len(label_config) > MAX_CONFIG_CHARS or re.search(r"<!(doctype|entity)", label_config, re.I):
        raise LabelConfigError(
            f"a labelling configuration of at most {MAX_CONFIG_CHARS} characters without document types",
            f"{len(label_config)} characters",
            "send the configuration as Label Studio stores it",
        )
    try:
        return LabelInterface(label_config)
    except Exception as error:
        raise LabelConfigError(
            "a labelling configuration in XML",
            f"{type(error).__name__}: {error}",
            "correct it in Label Studio",
        ) from error


def _is_smart(control: Any) -> bool:
    attributes = [control.attr, *(label.attr for label in (control.labels_attrs or {}).values())]
    return any(str(a.get(key, "")).lower() == "true" for a in attributes for key in ("smart", "smartOnly", "smartonly"))


def _gauge(control: Any, image_name: str) -> ScoreControl | None:
    kinds: dict[str, Literal["number", "textarea"]] = {"Number": "number", "TextArea": "textarea"}
    kind = kinds.get(control.tag)
    quantity = control.name.lower().replace("-", "_")
    if kind is None or quantity not in QUANTITIES or control.to_name[0] != image_name:
        return None
    per_region = str(control.attr.get("perRegion", control.attr.get("perregion", ""))).lower() == "true"
    return ScoreControl(control.name, image_name, quantity, kind, per_region)
