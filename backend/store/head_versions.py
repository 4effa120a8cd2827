"""What is known of a version of a project, and of the pointer that names the one in use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from backend.errors import reason_of

VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Version:
    """One stored version. `made_at` in seconds since 1970; `labels` names what it was trained on, `figures` are the
    gate's. `heads` is the head set's own name; `classes` and `learnt_figures` are of what was learnt of the project's
    objects, whose file has the digest `learnt_sha256`; `decoder` and what begins so are of the project's own mask
    decoder; each is empty where there is none."""

    version: str
    parent: str
    made_at: float
    checkpoint: str
    samples: int
    labels: tuple[str, ...] = field(repr=False)
    figures: dict[str, Any] = field(repr=False)
    sha256: str = field(repr=False)
    heads: str = ""
    classes: tuple[str, ...] = ()
    learnt_figures: dict[str, Any] = field(default_factory=dict, repr=False)
    learnt_sha256: str = field(default="", repr=False)
    decoder: str = ""
    decoder_figures: dict[str, Any] = field(default_factory=dict, repr=False)
    decoder_sha256: str = field(default="", repr=False)

    @classmethod
    def parse(cls, content: bytes) -> Version:
        """From a version's file. Raises `ValueError`."""
        try:
            facts = json.loads(content)
            return cls(
                version=str(facts["version"]),
                parent=str(facts["parent"]),
                made_at=float(facts["made_at"]),
                checkpoint=str(facts["checkpoint"]),
                samples=int(facts["samples"]),
                labels=tuple(facts["labels"]),
                figures=dict(facts["figures"]),
                sha256=str(facts["sha256"]),
                heads=str(facts.get("heads") or facts["version"]),
                classes=tuple(map(str, facts.get("classes") or ())),
                learnt_figures=dict(facts.get("learnt_figures") or {}),
                learnt_sha256=str(facts.get("learnt_sha256") or ""),
                decoder=str(facts.get("decoder") or ""),
                decoder_figures=dict(facts.get("decoder_figures") or {}),
                decoder_sha256=str(facts.get("decoder_sha256") or ""),
            )
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Promotion:
    """One move of the pointer. `kind` is `promotion`, `rollback` or `repair`; an empty version is the checkpoint's
    own."""

    version: str
    before: str
    kind: str
    at: float
    reason: str


def parse_pointer(content: bytes) -> dict[str, Any]:
    """A project's pointer from its file. Raises `ValueError`."""
    try:
        pointer = json.loads(content)
        TypeAdapter(list[Promotion]).validate_python(pointer["history"])
        if pointer["version"] != "" and not VERSION_NAME.fullmatch(pointer["version"]):
            raise ValueError("it names no version")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(reason_of(error)) from None
    return dict(pointer)
