"""The XML of a labelling configuration, as the editor takes it.

To the editor the case of tags and attributes is all the same, and a namespace or a comment is nothing; the SDK looks
for exact names. So a configuration is spelt anew before the SDK reads it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from backend.errors import LabelConfigError

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.interface import LabelInterface

MAX_CONFIG_CHARS = 1_000_000
MAX_CONTROLS = 500
"""Controls and objects of one configuration: each is looked at with each other."""
_DECLARATION = re.compile(r"\A[\s\ufeff]*(<\?xml[^>]*\?>)?\s*")
_QUOTED = {"<!--": "-->", "<![CDATA[": "]]>", "<?": "?>"}
_QUOTING = re.compile(r"<!--|<!\[CDATA\[|<\?")
_TAGS = """View Image Video Labels Label Choice Choices Relation Number TextArea VideoRectangle Repeater
    BrushLabels Brush BitmaskLabels Bitmask PolygonLabels Polygon RectangleLabels Rectangle EllipseLabels Ellipse
    KeyPointLabels KeyPoint"""
DRAWING = frozenset(["brush", "bitmask", "polygon", "rectangle", "ellipse", "keypoint", "vector"])
"""Tags that mark a place on an image, with and without labels of their own."""
_ATTRIBUTES = "name toName value valueList alias choice smart smartOnly perRegion frameRate indexFlag"
_TAG_SPELLING, _ATTRIBUTE_SPELLING = ({word.lower(): word for word in names.split()} for names in (_TAGS, _ATTRIBUTES))


def interface_of(label_config: str) -> LabelInterface:
    """The SDK's reading of a labelling configuration. Raises `LabelConfigError` where it is none, or too large."""
    from label_studio_sdk.label_interface.interface import LabelInterface

    if len(label_config) > MAX_CONFIG_CHARS:
        raise LabelConfigError(
            f"a labelling configuration of at most {MAX_CONFIG_CHARS} characters",
            f"{len(label_config)} characters",
            "send the configuration as Label Studio stores it",
        )
    text = _DECLARATION.sub("", label_config, count=1)
    if found := re.search(r"<!(doctype|entity)", _markup(text), re.I):
        raise LabelConfigError(
            "a labelling configuration without document types", found[0], "take the document type out of it"
        )
    try:
        return LabelInterface(_spelt_anew(text))
    except LabelConfigError:
        raise
    except Exception as error:
        raise LabelConfigError(
            "a labelling configuration in XML",
            f"{type(error).__name__}: {error}"[:300],
            "correct it in Label Studio",
        ) from error


def shared_names(label_config: str) -> list[str]:
    """What is told apart by nothing: labels of one control that are written alike, a sentence each. The editor writes
    the alias of a label that has one, so two of one alias come back as the same.

    >>> shared_names('<Labels name="a"><Label value="cat"/><Label value="dog" alias="cat"/></Labels>')
    ["labels 'cat' and 'dog' of a are both written 'cat'"]
    """
    root = ElementTree.fromstring(_DECLARATION.sub("", label_config, count=1))  # noqa: S314 - parsed before
    found = []
    for control in root.iter():
        name = _attributes(control).get("name", "")[:40]
        written: dict[str, list[str]] = {}
        for label in control.iter() if name else ():
            given = _attributes(label)
            if label.tag.rpartition("}")[2].lower() == "label" and given.get("value"):
                written.setdefault(given.get("alias") or given["value"], []).append(given["value"])
        for alias, labels in written.items():
            if len(labels) > 1:
                each = " and ".join(repr(label[:40]) for label in labels[:5])
                all_of_them = "both" if len(labels) == 2 else "all"
                found.append(f"labels {each} of {name} are {all_of_them} written {alias[:40]!r}")
    return found


def _attributes(tag: ElementTree.Element) -> dict[str, str]:
    """The attributes of a tag, by names without capitals."""
    return {name.lower(): value for name, value in tag.attrib.items()}


def smart_point(image: str, labels: Sequence[str] = (), taken: Collection[str] = ()) -> str:
    """The control, in XML, that makes clicks on `image` be answered, with these `labels`; its name is none of `taken`.

    >>> smart_point("img")
    '<KeyPoint name="click" toName="img" smart="true" smartOnly="true"/>'
    """
    name = next(name for number in count() if (name := f"click{number or ''}") not in taken)
    shared = f'name={quoteattr(name)} toName={quoteattr(image)} smart="true" smartOnly="true"'
    if not labels:
        return f"<KeyPoint {shared}/>"
    offered = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return f"<KeyPointLabels {shared}>{offered}</KeyPointLabels>"


def _markup(text: str) -> str:
    """XML without what it only quotes: comments, `CDATA` and instructions of other programs."""
    kept, start = [], 0
    while (found := _QUOTING.search(text, start)) and (end := text.find(_QUOTED[found[0]], found.end())) >= 0:
        kept.append(text[start : found.start()])
        start = end + len(_QUOTED[found[0]])
    return "".join([*kept, text[start:]])


def _spelt_anew(text: str) -> str:
    """The same configuration with names as the SDK expects them.

    Raises `LabelConfigError` for a Repeater of images or videos, or more controls than anybody draws with.
    """
    root = ElementTree.fromstring(text)  # noqa: S314 - without document types there are no entities
    controls = 0
    for tag in root.iter():
        name = tag.tag.rpartition("}")[2]
        tag.tag = _TAG_SPELLING.get(name.lower(), name)
        if tag.tag == "Repeater" and any(_is_drawn_on(inner) for inner in tag.iter()):
            raise LabelConfigError(
                "a labelling configuration that names each of its images",
                "a Repeater, whose tags the editor makes anew for each task",
                "write out one Image tag and its controls for each picture of a task, or import one picture a task",
            )
        for key, value in list(tag.attrib.items()):
            if (right := _ATTRIBUTE_SPELLING.get(key.lower(), key)) not in tag.attrib:
                del tag.attrib[key]
                tag.set(right, value)
        controls += "name" in tag.attrib
    if controls > MAX_CONTROLS:
        raise LabelConfigError(
            f"a labelling configuration of at most {MAX_CONTROLS} named tags",
            str(controls),
            "make several projects of it",
        )
    return ElementTree.tostring(root, encoding="unicode")


def _is_drawn_on(tag: ElementTree.Element) -> bool:
    """Whether it is an image or a video, or a control that marks something on one."""
    name = tag.tag.rpartition("}")[2].lower() if isinstance(tag.tag, str) else ""
    return name in ("image", "video") or name.removesuffix("labels") in DRAWING
