"""What Label Studio's API answers, as far as the service uses it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from backend.errors import LabelStudioError

Json = dict[str, Any]
UNCERTAINTY_SAMPLING = "Uncertainty sampling"
MAX_ID = 2**63 - 1
"""Largest id there can be: what every store can hold. Checked where numbers come in, and nowhere else."""


MAX_COUNT = 10**9
"""Largest number of anything: databases add some of them up, and PostgreSQL refuses a sum beyond `MAX_ID`."""
MAX_DIGITS = 4000
"""Whole numbers of more count as infinite in JSON: Python makes none of them."""


MAX_NESTING = 100
HALF_PAIR = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def is_text(given: str) -> bool:
    """Whether every database keeps it as it is: no half of a surrogate pair, no NUL."""
    return "\0" not in given and (given.isascii() or not HALF_PAIR.search(given))


def whole_number(digits: str) -> float:
    """A whole number of JSON, for `parse_int`: one item's endless number must not refuse all others."""
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return -math.inf if digits[0] == "-" else math.inf


def loads(text: str) -> Any:
    """JSON of which only one item is meant to suffer from what is wrong with it: endless numbers are infinite, and what
    is nested in more than `MAX_NESTING` others is null.

    Raises `ValueError` for what is no JSON.

    >>> loads("[1, " + "[" * 100_000 + "]" * 100_000 + "]")[0]
    1
    """
    return json.loads(_without_depths(text), parse_int=whole_number)


def _without_depths(text: str) -> str:
    kept, depth, start = [], 0, 0
    for found in _TOKEN.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth == MAX_NESTING + 1:
                kept.append(text[start : found.start()])
        elif found[0] in "]}":
            if depth == MAX_NESTING + 1:
                kept.append("null")
                start = found.end()
            depth -= 1
    return "".join([*kept, text[start:]]) if depth == 0 else ""


def _field(item: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        return item[name]
    except KeyError:
        raise LabelStudioError(f"a {what} with {name!r}", "none", "check that it is Label Studio 1.23") from None


def number(value: Any, what: str) -> int:
    """A whole number from 0 that can be stored. Raises `LabelStudioError`."""
    if not _is_whole(value) or not 0 <= value <= MAX_ID:
        raise LabelStudioError(f"a {what} from 0 to {MAX_ID}", repr(value)[:40], "check that it is Label Studio 1.23")
    return value


def _count(item: Mapping[str, Any], name: str, otherwise: int) -> int:
    """How many there are; `otherwise` where it does not say, or says nonsense."""
    value = item.get(name)
    return value if _is_whole(value) and 0 < value <= MAX_COUNT else otherwise


def _is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number: `true` is one to Python, and no database takes it for one."""
    return isinstance(value, int) and not isinstance(value, bool)


def score_of(value: Any) -> float | None:
    """A score; None where there is none, or one that no prediction has."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else None


def _moment(item: Mapping[str, Any], name: str = "updated_at") -> str:
    """When it was changed last, or made; nothing that no store could hold."""
    moment = item.get(name)
    return moment[:40] if isinstance(moment, str) and moment.isascii() and "\0" not in moment else ""


def _id(item: Mapping[str, Any], what: str) -> int:
    return number(_field(item, "id", what), f"{what} id")


@dataclass(frozen=True)
class Project:
    """One project. `stamp` tells it from an earlier one of the same id (another database)."""

    id: int
    title: str
    label_config: str
    model_version: str
    sampling: str
    stamp: str
    maximum_annotations: int = 1
    show_overlap_first: bool = False
    evaluates_by_itself: bool = False
    shows_predictions: bool = True

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Project:
        return cls(
            id=_id(item, "project"),
            title=str(item.get("title") or ""),
            label_config=str(item.get("label_config") or ""),
            model_version=str(item.get("model_version") or ""),
            sampling=str(item.get("sampling") or ""),
            stamp=_moment(item, "created_at"),
            maximum_annotations=_count(item, "maximum_annotations", 1),
            show_overlap_first=bool(item.get("show_overlap_first")),
            evaluates_by_itself=bool(item.get("evaluate_predictions_automatically")),
            shows_predictions=bool(item.get("show_collab_predictions", True)),
        )


@dataclass(frozen=True)
class Task:
    """One task without its annotations. `updated_at` moves with every change of it or its annotations."""

    id: int
    data: Json = field(repr=False)
    updated_at: str
    annotations: int = 0
    cancelled: int = 0
    predictions: int = 0
    is_labeled: bool = False

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Task:
        data = item.get("data")
        return cls(
            id=_id(item, "task"),
            data=data if isinstance(data, dict) else {},
            updated_at=_moment(item),
            annotations=_count(item, "total_annotations", 0),
            cancelled=_count(item, "cancelled_annotations", 0),
            predictions=_count(item, "total_predictions", 0),
            is_labeled=bool(item.get("is_labeled")),
        )


@dataclass(frozen=True)
class Annotation:
    """One person's answer on one task; `cancelled` means skipped; `lead_s` are the seconds it took by Label Studio's
    clock and `annotator` the number of who made it, None where it does not say."""

    id: int
    task: int
    updated_at: str
    result: list[Json] = field(repr=False)
    cancelled: bool = False
    lead_s: float | None = None
    annotator: int | None = None

    @property
    def content(self) -> str:
        """Digest of what was marked, whatever the order: another one means that a region or its label has changed."""
        told = [[one.get(name) for name in ("id", "type", "value")] for one in self.result]
        lines = sorted(json.dumps(one, sort_keys=True, default=str) for one in told)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:40]

    @classmethod
    def read(cls, item: Mapping[str, Any], task: int) -> Annotation:
        result, lead, who = item.get("result"), item.get("lead_time"), item.get("completed_by")
        who = who.get("id") if isinstance(who, dict) else who
        return cls(
            id=_id(item, "annotation"),
            task=task,
            updated_at=_moment(item),
            result=[one for one in result if isinstance(one, dict)] if isinstance(result, list) else [],
            cancelled=bool(item.get("was_cancelled")),
            lead_s=float(lead) if isinstance(lead, int | float) and 0 <= lead < 1e9 else None,
            annotator=who if _is_whole(who) and 0 < who <= MAX_ID else None,
        )


@dataclass(frozen=True)
class Prediction:
    """One stored prediction."""

    id: int
    task: int
    model_version: str
    score: float | None
    result: list[Json] = field(repr=False)

    @classmethod
    def read(cls, item: Mapping[str, Any], task: int) -> Prediction:
        result, score = item.get("result"), item.get("score")
        return cls(
            id=_id(item, "prediction"),
            task=task,
            model_version=str(item.get("model_version") or ""),
            score=score_of(score),
            result=[one for one in result if isinstance(one, dict)] if isinstance(result, list) else [],
        )


@dataclass(frozen=True)
class ServedTask:
    """What an annotator gets next. `queue` is Label Studio's own word for why."""

    id: int
    queue: str
    predictions: list[Json] = field(repr=False)

    @property
    def locked(self) -> bool:
        """Served because this account already holds its lock, whatever the scores say."""
        return "Task lock" in self.queue

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> ServedTask:
        predictions = item.get("predictions")
        return cls(
            id=_id(item, "task"),
            queue=str(item.get("queue") or ""),
            predictions=predictions if isinstance(predictions, list) else [],
        )


@dataclass(frozen=True)
class View:
    """One tab of the Data Manager."""

    id: int
    title: str
    data: Json = field(repr=False)

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> View:
        data = item.get("data")
        data = data if isinstance(data, dict) else {}
        return cls(id=_id(item, "view"), title=str(data.get("title") or ""), data=data)


@dataclass(frozen=True)
class Webhook:
    """Where Label Studio sends events, and with which headers. They may hold a secret, so they are not
    shown."""

    id: int
    url: str
    headers: Json = field(repr=False)
    actions: tuple[str, ...]
    all_actions: bool
    active: bool

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Webhook:
        headers = item.get("headers")
        return cls(
            id=_id(item, "webhook"),
            url=str(item.get("url") or ""),
            headers=headers if isinstance(headers, dict) else {},
            actions=tuple(str(action) for action in item.get("actions") or ()),
            all_actions=bool(item.get("send_for_all_actions")),
            active=bool(item.get("is_active")),
        )


@dataclass(frozen=True)
class MlBackend:
    """One connected backend. `state` is `CO` when Label Studio reaches it."""

    id: int
    url: str
    title: str
    state: str
    error: str
    model_version: str
    interactive: bool

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> MlBackend:
        return cls(
            id=_id(item, "backend"),
            url=str(item.get("url") or ""),
            title=str(item.get("title") or ""),
            state=str(item.get("state") or ""),
            error=str(item.get("error_message") or ""),
            model_version=str(item.get("model_version") or ""),
            interactive=bool(item.get("is_interactive")),
        )
