"""One task looked at closely: each proposal with what the model says of it, and what else it might be."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np

from backend.errors import ITEM_ERRORS, RegistryError, reason_of
from backend.label_studio.config import parse_config
from backend.pool.kept_objects import KeptObjects
from backend.pool.proposals import ScoredObjects, score_many
from backend.settings import Settings
from backend.store.overview import UNUSABLE
from backend.store.records import ScoreRow
from backend.web.dashboard.large_pictures import logits_of, other_reading
from backend.web.dashboard.overview import link_to
from backend.web.dashboard.queue import FILTERS, MOST_GAP, Doubt, picture_name
from backend.web.dashboard.trust import heads_named
from usam.masks import iou

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.head_registry import Registry
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads

HEADS_KEPT, TASKS_KEPT = 8, 200
GAPS: Mapping[str, str] = {
    "task_gap": "which object is meant",
    "model_gap": "what a larger model would add",
    "prompt_gap": "what a better prompt would add",
}
"""What each gap is about, in a person's words."""


@dataclass(frozen=True)
class ObjectLine:
    """One proposal. `iou` is predicted, 0..1; `sure` the probability of the learnt label, None where none is; `gaps`
    as bars; `notes` say what the larger model and the alternative say, where there are any."""

    number: int
    label: str
    sure: float | None
    wanted: float | None
    iou: float
    gaps: tuple[Doubt, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TaskPage:
    """What the page shows. `pictures` are addresses of the large pictures below the task's; `back` that of the page of
    the queue from which it was opened; `trouble` says why no proposal is shown."""

    task: int
    picture: str
    link: str
    back: str
    reason: str
    place: int
    is_audit: bool
    objects: tuple[ObjectLine, ...]
    left_out: int
    pictures: Mapping[str, str]
    trouble: str
    heads: str


class Closer:
    """Pages of single tasks. What heads say of a task is kept for the next look. Safe to share between threads."""

    def __init__(
        self, settings: Settings, store: Store, registry: Registry | None, label_config: Callable[[int], str]
    ) -> None:
        self._settings, self._store, self._registry, self._label_config = settings, store, registry, label_config
        self._lock = threading.Lock()
        self._heads: OrderedDict[tuple[int, str], tuple[HeadSet | None, ProjectHeads | None]] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int], tuple[object, tuple[tuple[ObjectLine, ...], int, str, bool]]] = (
            OrderedDict()
        )

    def page(self, project: int, task: int, asked: Mapping[str, str]) -> TaskPage | None:
        """The page of a task; None for one that is not known."""
        key = self._store.picture_key(project, task)
        known = self._store.tasks(project, only=[task]) if key is not None else []
        if not known:
            return None
        place = self._store.place(project, task)
        config = self._label_config(project)
        try:
            champion = self._registry.champion(project) if self._registry is not None else ""
            objects, left_out, trouble, more = self._objects(project, task, (key, champion, config), place)
        except RegistryError as error:
            champion, objects, left_out, more = "", (), 0, False
            trouble = f"Which version is in use cannot be read: {error}"
        reason = place.reason if place is not None else ""
        if place is not None and place.acquisition <= UNUSABLE:
            trouble = f"This picture could not be used: {reason}"
        of = urlencode({"of": hashlib.blake2b(f"{key}|{config}".encode(), digest_size=6).hexdigest()})
        views = ["proposals", "doubt", *(["readings"] if more else [])] if objects else ["proposals"]
        back = {name: asked[name] for name in (*FILTERS, "page") if asked.get(name)}
        return TaskPage(
            task=task,
            picture=picture_name(known[0].data),
            link=link_to(self._settings, project, task),
            back="../queue" + (f"?{urlencode(back)}" if back else ""),
            reason=reason if not trouble else "",
            place=place.place + 1 if place is not None else 0,
            is_audit=place is not None and place.is_audit,
            objects=objects,
            left_out=left_out,
            pictures={view: f"{task}/pictures/{view}?{of}" for view in views},
            trouble=trouble,
            heads=champion,
        )

    def _objects(
        self, project: int, task: int, state: tuple[str | None, str, str], place: ScoreRow | None
    ) -> tuple[tuple[ObjectLine, ...], int, str, bool]:
        """The proposals that are shown, how many candidates are not, why there are none, and whether any has another
        reading."""
        with self._lock:
            kept = self._kept.get((project, task))
            if kept is not None and kept[0] == state:
                self._kept.move_to_end((project, task))
                return kept[1]
        try:
            found = self._found(project, task, state[1], state[2], place)
        except ITEM_ERRORS as error:
            found = (), 0, f"What the model said of this task cannot be read: {reason_of(error)}", False
        with self._lock:
            self._kept[project, task] = state, found
            while len(self._kept) > TASKS_KEPT:
                self._kept.popitem(last=False)
        return found

    def _found(
        self, project: int, task: int, champion: str, config: str, place: ScoreRow | None
    ) -> tuple[tuple[ObjectLine, ...], int, str, bool]:
        row = self._store.proposal_rows(project, [task]).get(task)
        if row is None or not row.arrays:
            why = row.reason if row is not None and row.reason else "it has not been looked at by the model yet"
            return (), 0, f"No proposal is kept of this task: {why}.", False
        kept = KeptObjects.unpack(row)
        heads, learnt = self._heads_of(project, champion)
        (scored,) = score_many(heads, learnt, self._settings, [kept])
        numbers = [number for number in (place.shown if place is not None else ()) if number < len(kept)]
        lines = tuple(self._line(scored, number, at, config) for at, number in enumerate(numbers, 1))
        why = (
            "" if lines else "None of the model's proposals is sure enough to be shown, or this task is shown without."
        )
        more = any(number in kept.larger or number in kept.alternatives for number in numbers)
        return lines, len(kept) - len(lines), why, more

    def _line(self, scored: ScoredObjects, number: int, at: int, config: str) -> ObjectLine:
        kept, scores = scored.kept, scored.scores(number)
        label, sure = scored.shown.label(number, kept.labels[number])
        if label is None and config:
            label = parse_config(config).place(None, None, self._settings.unknown_label).label
        gaps = tuple(
            Doubt(words, scores.gaps[name], min(max(scores.gaps[name] / MOST_GAP, 0.0), 1.0))
            for name, words in GAPS.items()
            if name in scores.gaps
        )
        wanted = float(scored.shown.wanted[number])
        return ObjectLine(
            number=at,
            label=label or "",
            sure=sure,
            wanted=wanted if np.isfinite(wanted) else None,
            iou=scores.iou,
            gaps=gaps,
            notes=tuple(notes_of(kept, number, float(np.clip(scored.iou[number], 0, 1)))),
        )

    def _heads_of(self, project: int, champion: str) -> tuple[HeadSet | None, ProjectHeads | None]:
        with self._lock:
            found = self._heads.get((project, champion))
        if found is None:
            heads = heads_named(self._settings, self._registry, project, champion)
            learnt = self._registry.load_learnt(project, champion) if self._registry is not None and champion else None
            found = heads, learnt
            with self._lock:
                self._heads[project, champion] = found
                while len(self._heads) > HEADS_KEPT:
                    self._heads.popitem(last=False)
        return found


def notes_of(kept: KeptObjects, number: int, first_iou: float) -> list[str]:
    """What the larger model and the alternative say of a candidate. Raises `MaskError`."""
    notes = []
    if (larger := kept.larger.get(number)) is not None:
        alike = iou(logits_of(kept, number) > 0, np.asarray(kept.masks.logits([number])[0]) > 0)
        notes.append(
            f"Shown is the mask of the larger model ({larger.checkpoint}), predicted IoU {larger.iou:.2f}; the first "
            f"model's has {first_iou:.2f}, and the two overlap by IoU {float(alike):.2f}."
        )
    if (other := kept.alternatives.get(number)) is not None:
        reading = other_reading(kept, number)
        assert reading is not None
        shown = logits_of(kept, number)
        comparable = reading.shape == shown.shape
        overlap = f", overlaps this one by IoU {float(iou(reading > 0, shown > 0)):.2f}" if comparable else ""
        notes.append(f"Another reading of the same place: predicted IoU {other.iou:.2f}{overlap}.")
    return notes
