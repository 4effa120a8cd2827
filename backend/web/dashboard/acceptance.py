"""What became of what was asked for about accepted masks, in words; and what an address or a call asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.store.requests import AcceptanceRequest
from backend.web.dashboard.actions import promise_words
from backend.web.dashboard.what_if import wish_of
from usam.pseudo_labels.guarantee import RiskGuarantee

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.records import Run

SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """One request: who asked `at` what time for `what`, its `state` (that of `AcceptanceRequest`, or `running`), and
    `words` on it. `done` of `total` steps while it runs, both 0 where nobody can tell."""

    at: float
    who: str
    what: str
    state: str
    words: str
    needed: int = 0
    done: int = 0
    total: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.state in ("waiting", "running")


def asked_of(store: Store, project: int, count: int = SHOWN) -> tuple[Asked, ...]:
    """What was asked for of a project, the newest first."""
    last = store.last_run(project, "pseudo_label")
    return tuple(asked(request, last) for request in store.acceptance_requests(project, count))


def asked(request: AcceptanceRequest, last: Run | None) -> Asked:
    """One request for people; `last` is the newest run of the job that does it."""
    is_running = request.state == "waiting" and last is not None and last.state == "running"
    is_running = is_running and last is not None and last.started_at >= request.asked_at
    what = "Take back" if request.action == "take-back" else f"Accept, {promise_words(request.promise)}"
    done, total = (last.done, last.total) if is_running and last is not None else (0, 0)
    state = "running" if is_running else request.state
    return Asked(
        request.asked_at, request.who, what, state, words_of(request, state, done, total), request.needed, done, total
    )


def words_of(request: AcceptanceRequest, state: str, done: int, total: int) -> str:
    """How a request stands, in a sentence."""
    reason = request.outcome
    if state == "running":
        how_far = f"{done:,} of {total:,}" if total else "begun"
        return f"Being done now: {how_far}."
    if state == "waiting":
        return f"It did not work and is tried again by itself: {reason}" if reason else "Waits for a worker."
    if state == "refused":
        if request.needed:
            audits = f"{request.needed:,} more audit {'task' if request.needed == 1 else 'tasks'}"
            return f"Nothing is accepted: the promise cannot be kept yet. Label {audits} first. ({reason})"
        return f"Nothing is accepted: the promise cannot be kept. ({reason})"
    lead = {"done": "Done", "skipped": "Nothing to do", "failed": "Not done", "replaced": "Not done"}.get(state, state)
    return f"{lead}: {reason}" if reason else f"{lead}."


def promise_of(asked: Mapping[str, str]) -> RiskGuarantee:
    """The promise that an address or a form of the page asks for, within what its sliders offer.

    >>> promise_of({"iou": "0.9", "confidence": "7"}).confidence
    0.99
    """
    iou, risk, confidence = wish_of(asked)
    return RiskGuarantee(iou, risk, confidence)
