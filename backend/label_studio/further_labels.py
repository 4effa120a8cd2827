"""Where the labels of an object go that has several: the editor lets a person select more than one.

A control with `choice="multiple"` takes several labels, each generic `Labels` control of the image takes some beside
the mask's own. What neither takes is said, never dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.label_studio.config import LabelConfig, LabelSource, Output, UnknownLabel


@dataclass(frozen=True)
class LabelledPlacement:
    """Where an object goes, what each control writes of its labels, and what a person should know of them."""

    output: Output
    written: dict[LabelSource, list[str]]
    notes: tuple[str, ...]

    @property
    def label(self) -> str | None:
        """The label that decided where it goes, None without one."""
        return next(iter(self.written.get(self.output.source, ())), None) if self.output.source is not None else None


def place_labels(
    labels: Sequence[str],
    controls: LabelConfig,
    data: Mapping[str, Any] | None = None,
    unknown: UnknownLabel = "none",
    told_by: str = "",
) -> LabelledPlacement:
    """Where an object of these labels goes: to the control of the first that is offered (`LabelConfig.place`), and its
    other labels beside it. `data` is the task's, `told_by` the control of the first label."""
    placements = [controls.place(label, data, unknown, told_by) for label in labels or (None,)]
    first = next((number for number, one in enumerate(placements) if not one.note), 0)
    output, own = placements[first].output, placements[first].output.source
    label = placements[first].label
    further = [name for number, name in enumerate(labels) if number != first or label is None]
    written: dict[LabelSource, list[str]] = {own: [label]} if own is not None and label is not None else {}
    sources = list(dict.fromkeys([*([own] if own is not None else []), *controls.generic]))
    left_out = []
    for wanted in further:
        offers = [(source, found) for source in sources if (found := _as_written(source, wanted, controls, data))]
        if any(found in written.get(source, ()) for source, found in offers):
            continue
        free = next(((source, found) for source, found in offers if source.several or source not in written), None)
        if free is not None:
            written.setdefault(free[0], []).append(free[1])
        elif wanted != labels[first]:  # of which the placement's note speaks
            left_out.append(wanted)
    names = ", ".join(repr(label[:40]) for label in left_out[:5])
    reason = "is not taken beside its label" if len(left_out) == 1 else "are not taken beside its label"
    said = f"also labelled {names}, which {reason} here: please check" if left_out else ""
    return LabelledPlacement(output, written, tuple(filter(None, (placements[first].note, said))))


def _as_written(source: LabelSource, wanted: str, controls: LabelConfig, data: Mapping[str, Any] | None) -> str | None:
    """A label as a control writes it, which was told by itself or by an alias; None where it does not offer it."""
    return next(filter(None, (source.find(name, data) for name in controls.names_of(wanted))), None)
