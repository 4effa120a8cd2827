"""What a labelling configuration offers: where prompts come from, where masks go, where gaps can be shown.

A configuration is parsed once by the SDK's `LabelInterface`, which also judges what we answer, and kept: a
click must not wait for XML. Several images in one task have a `LabelConfig` each: `for_image` and `for_result`
give the one that regions mean by their `to_name`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from backend.errors import LabelConfigError, RegionError
from backend.label_studio.config_xml import interface_of
from backend.label_studio.records import is_text
from backend.label_studio.task_values import dynamic_labels, has_variable, task_value

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.interface import LabelInterface

OutputKind = Literal["brush", "bitmask", "polygon", "rectangle"]
UnknownLabel = Literal["none", "first"]
"""What a mask gets whose label nobody told, where several are offered: none, or the configuration's first."""

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
OUTPUT_LABELS = frozenset(tag.lower() for tag in OUTPUTS if tag.endswith("Labels"))
PROMPTS = ("KeyPointLabels", "KeyPoint", "RectangleLabels", "Rectangle", "BrushLabels", "Brush")
QUANTITIES = ("task_gap", "prompt_gap", "model_gap", "predicted_iou")


@dataclass(frozen=True)
class LabelSource:
    """The control that takes an object's label: the mask's own, or a generic `Labels` beside it.

    `several` says whether it takes more than one of an object. `labels` are written as the editor writes them: a
    label's alias where it has one. `dynamic` is the value (`$classes`) under which each task brings labels of its own,
    empty without one.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    dynamic: str = ""
    several: bool = False

    def find(self, wanted: str, data: Mapping[str, Any] | None = None) -> str | None:
        """`wanted` as this control writes it; None where it does not offer it. Without the task's `data`, a
        control with labels of the task offers whatever is asked for."""
        if wanted in self.labels:
            return wanted
        if wanted in self.aliases:
            return self.aliases[wanted]
        if not self.dynamic:
            return None
        return wanted if data is None else dict(dynamic_labels(task_value(self.dynamic, data))).get(wanted)


@dataclass(frozen=True)
class Output:
    """A control that receives our regions. `type` is the region's type; `source` takes the label (None where
    nothing does), `label_key` is its key in this region itself (None where another control takes it)."""

    kind: OutputKind
    name: str
    to_name: str
    type: str
    label_key: str | None
    source: LabelSource | None

    @property
    def label_control(self) -> str:
        """The name of the control that takes the label, empty without one."""
        return self.source.name if self.source is not None else ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the configuration itself offers here."""
        return self.source.labels if self.source is not None else ()


@dataclass(frozen=True)
class Placement:
    """Where one object goes and as what. `note` says what a person should know of the label."""

    output: Output
    label: str | None
    note: str = ""


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
    """One parsed labelling configuration, seen from one of its images.

    `outputs` are the image's controls for masks, the most faithful first; `output` is the first of them. `smart` are
    the controls whose regions are sent as prompts.
    """

    outputs: tuple[Output, ...]
    smart: tuple[PromptControl, ...]
    gauges: tuple[ScoreControl, ...]
    image_name: str
    image_source: str
    """The image tag's value, such as `$image` or `$photos[1].url`."""
    interface: LabelInterface = field(repr=False, compare=False)
    others: tuple[LabelConfig, ...] = field(default=(), repr=False)
    """The same configuration seen from its other images."""
    generic: tuple[LabelSource, ...] = field(default=(), repr=False)
    """The generic `Labels` of the image: each can label any of its objects beside the mask's own control."""
    meanings: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Alias -> the label it stands for, in any control of the image: a click's own control may write it otherwise than
    the one for masks."""

    @property
    def output(self) -> Output:
        """The control that masks go to where their label does not decide."""
        return self.outputs[0]

    @property
    def output_names(self) -> frozenset[str]:
        """The names of all controls that masks of this image go to."""
        return frozenset(output.name for output in self.outputs)

    @property
    def labels(self) -> list[str]:
        """The labels that masks of this image can be given, each as often as a control offers it."""
        return [label for output in self.outputs for label in output.labels]

    @property
    def image_key(self) -> str:
        """The image's path in a task's data, such as `photos[1].url`."""
        return self.image_source.removeprefix("$")

    @property
    def images(self) -> tuple[LabelConfig, ...]:
        """This configuration seen from each of its images that masks can be drawn on, this one first."""
        return (self, *self.others)

    def for_image(self, name: str) -> LabelConfig:
        """The configuration as the image tag `name` sees it; an empty name means this one.

        Raises `LabelConfigError` where no control on that image can hold a mask.
        """
        for view in self.images:
            if name in ("", view.image_name):
                return view
        raise LabelConfigError(
            f"a region on {' or '.join(view.image_name for view in self.images)}",
            f"one on {name[:60]!r}",
            "draw on an image that has a control for masks",
        )

    def for_result(self, result: Sequence[Mapping[str, Any]]) -> LabelConfig:
        """The configuration as the image sees it that these regions lie on.

        Raises `LabelConfigError` where they lie on several images, or on one that takes no masks.
        """
        names = list(dict.fromkeys(str(region["to_name"]) for region in result if region.get("to_name")))
        if len(names) > 1:
            raise LabelConfigError(
                "regions on one image", f"on {' and '.join(names)[:80]}", "prompt one image at a time"
            )
        return self.for_image(names[0] if names else "")

    def image_value(self, data: Mapping[str, Any]) -> str:
        """Where a task's image is. Raises `LabelConfigError` where the task has none."""
        value = task_value(self.image_source, data)
        if not isinstance(value, str) or not value.strip():
            raise LabelConfigError(
                f"an address in the task's data under `{self.image_key}`",
                "nothing" if value in (None, "") else type(value).__name__,
                "check the Image tag's value against the imported tasks",
            )
        if not is_text(value):
            raise LabelConfigError(
                "an address of whole letters", "half of a surrogate pair, or NUL", "import the task again"
            )
        return value.strip()

    def place(
        self,
        wanted: str | None,
        data: Mapping[str, Any] | None = None,
        unknown: UnknownLabel = "none",
        told_by: str = "",
    ) -> Placement:
        """The control and label of an object that somebody, or a learned class, called `wanted`.

        The first control that offers the label gets it; of several for masks of that kind, the one by which it was
        told. A label that nobody offers, or none at all, is never turned into one of several; the only one there is is
        given. `unknown="first"` gives the first instead, and says so.
        """
        for name in () if wanted is None else self.names_of(wanted):
            offers = [
                (output, label)
                for output in self.outputs
                if output.source is not None and (label := output.source.find(name, data)) is not None
            ]
            for output, label in offers:
                if output.kind == offers[0][0].kind and output.label_control == told_by:
                    return Placement(output, label)
            if offers:
                return Placement(*offers[0])
        known = {label: output for output in reversed(self.outputs) for label in reversed(output.labels)}
        labelled = [output for output in self.outputs if output.source is not None]
        if not labelled:
            return Placement(self.output, None)
        missed = f"no control for masks offers the label {wanted[:60]!r}" if wanted is not None else ""
        only = len(known) == 1 and not any(output.source.dynamic for output in labelled if output.source is not None)
        if known and (only or unknown == "first"):
            label = self.labels[0]
            given = f"{label!r} is the only one" if only else f"label {label!r} is the first of the configuration"
            if only and not missed:
                return Placement(known[label], label)
            return Placement(known[label], label, "; ".join(filter(None, (missed, f"{given}: please check"))))
        return Placement(self.output, None, f"{missed or 'no label is known'}: please choose one")

    def names_of(self, wanted: str) -> list[str]:
        """A label as it was told, and what it stands for where it is an alias."""
        return list(dict.fromkeys((wanted, self.meanings.get(wanted, wanted))))

    def check(self, result: Sequence[dict[str, Any]], score: float) -> None:
        """Raise `RegionError` where the SDK would not take this as a prediction.

        It takes generic labels beside a region that has labels of its own for labels of a text: they are passed over.
        """
        labelled = {r["id"] for r in result if r["type"] in OUTPUT_LABELS}
        known = [self._with_known_label(r) for r in result if r["type"] != "labels" or r["id"] not in labelled]
        prediction = {"result": known, "score": score}
        validate: Callable[..., list[str]] = self.interface.validate_prediction
        errors = validate(prediction, return_errors=True)
        if errors:
            shown = str(errors[0])
            raise RegionError(
                "a prediction that fits the labelling configuration",
                shown if len(shown) <= 300 else shown[:300] + "...",
                "report this with the labelling configuration",
            )

    def _with_known_label(self, region: dict[str, Any]) -> dict[str, Any]:
        """For the SDK, which knows no labels of tasks beside those of the configuration: one of the latter."""
        sources = [*(output.source for output in self.outputs if output.source is not None), *self.generic]
        own = next((one for one in sources if one.name == region["from_name"] and one.dynamic and one.labels), None)
        if own is None or not region["value"].get(own.type):
            return region
        return region | {"value": region["value"] | {own.type: [own.labels[0]]}}


@lru_cache(maxsize=64)
def parse_config(label_config: str) -> LabelConfig:
    """Parse a labelling configuration, or give back the parsed one: as its best image for masks sees it.

    Raises `LabelConfigError` where it is not XML, has no image, repeats its tags for a list in the task, or no control
    on an image can hold a mask.
    """
    interface = interface_of(label_config)
    images = {o.name: o for o in interface.objects if o.tag == "Image"}
    candidates = [c for c in interface.controls if c.tag in OUTPUTS and any(name in images for name in c.to_name)]
    if not candidates:
        is_video = any(c.tag == "VideoRectangle" for c in interface.controls)
        raise LabelConfigError(
            "an Image tag with BrushLabels, BitmaskLabels, PolygonLabels or RectangleLabels on it",
            ", ".join(sorted({f"{c.tag} on {','.join(c.to_name)}" for c in interface.controls}))[:200] or "no controls",
            "boxes on videos are followed by usam-backend track"
            if is_video
            else "add one of them to the labelling configuration",
        )
    ranks = list(OUTPUTS)
    candidates.sort(key=lambda c: (_is_smart(c), ranks.index(c.tag)))
    names = dict.fromkeys(name for c in candidates for name in c.to_name if name in images)
    views = [_seen_from(images[name], interface, candidates) for name in names]
    first, *others = views
    return replace(first, others=tuple(others))


def _seen_from(image: Any, interface: LabelInterface, candidates: Sequence[Any]) -> LabelConfig:
    value = image.attr.get("value") or ""
    several = image.attr.get("valueList")
    if several or (not has_variable(value) and (not value.startswith("$") or len(value) < 2)):
        got = repr("valueList" if several else value)
        raise LabelConfigError('an Image tag with value="$name"', got, "use one image per task")
    here = [c for c in interface.controls if image.name in c.to_name]
    generic = tuple(_label_source(c) for c in here if c.tag == "Labels")
    prompting = [c for c in here if c.tag in PROMPTS]
    smart = [c for c in prompting if _is_smart(c)] or [c for c in prompting if not _is_deaf(c)]
    return LabelConfig(
        outputs=tuple(
            _output(c, image.name, source)
            for c in candidates
            if image.name in c.to_name
            for source in ([_label_source(c)] if c.tag.endswith("Labels") else generic or (None,))
        ),
        smart=tuple(PromptControl(c.name, c.tag, tuple(c.labels or ())) for c in smart),
        gauges=tuple(gauge for c in here if (gauge := _gauge(c, image.name)) is not None),
        image_name=image.name,
        image_source=value,
        interface=interface,
        generic=generic,
        meanings=_meanings([_label_source(c) for c in here if c.tag.endswith("Labels")]),
    )


def _meanings(sources: Sequence[LabelSource]) -> dict[str, str]:
    """What each alias stands for, where all that have it agree."""
    pairs = {(alias, label) for source in sources for label, alias in source.aliases.items()}
    found = Counter(alias for alias, _ in pairs)
    return {alias: label for alias, label in pairs if found[alias] == 1}


def _output(control: Any, image_name: str, source: LabelSource | None) -> Output:
    key = control.tag.lower() if control.tag.endswith("Labels") else None
    return Output(OUTPUTS[control.tag], control.name, image_name, control.tag.lower(), key, source)


def _label_source(control: Any) -> LabelSource:
    value = str(control.attr.get("value", ""))
    attributes = [label.attr for label in (control.labels_attrs or {}).values()]
    aliases = {str(a["value"]): str(a["alias"]) for a in attributes if a.get("value") and a.get("alias")}
    dynamic = value if has_variable(value) else ""
    several = str(control.attr.get("choice", "")).lower() == "multiple"
    return LabelSource(control.name, control.tag.lower(), tuple(control.labels or ()), aliases, dynamic, several)


def _is_smart(control: Any) -> bool:
    attributes = [control.attr, *(label.attr for label in (control.labels_attrs or {}).values())]
    return any(str(a.get(key, "")).lower() == "true" for a in attributes for key in ("smart", "smartOnly", "smartonly"))


def _is_deaf(control: Any) -> bool:
    """Whether the editor sends no region of this control: it does, with Auto-Annotation on, unless told otherwise."""
    return str(control.attr.get("smart", "")).lower() == "false"


def _gauge(control: Any, image_name: str) -> ScoreControl | None:
    kinds: dict[str, Literal["number", "textarea"]] = {"Number": "number", "TextArea": "textarea"}
    kind = kinds.get(control.tag)
    quantity = control.name.lower().replace("-", "_")
    if kind is None or quantity not in QUANTITIES:
        return None
    per_region = str(control.attr.get("perRegion", control.attr.get("perregion", ""))).lower() == "true"
    return ScoreControl(control.name, image_name, quantity, kind, per_region)
