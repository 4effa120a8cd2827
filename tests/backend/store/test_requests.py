"""What was asked for about accepted masks: the newest counts, and nothing that was asked is forgotten silently."""

from __future__ import annotations

import pytest

from backend.errors import StoreError
from backend.store import Store
from backend.store import requests as module
from usam.errors import PseudoLabelError
from usam.pseudo_labels.guarantee import RiskGuarantee

PROMISE = RiskGuarantee(0.8, 0.1, 0.95, per_image=2, whole_images=True)


def test_a_request_carries_its_promise_and_who_asked(store: Store) -> None:
    store.request_acceptance(1, "accept", "ann\ud800 from 10.0.0.7", PROMISE)
    waiting = store.waiting_acceptance(1)
    assert waiting is not None
    assert (waiting.promise, waiting.as_annotations, waiting.action) == (PROMISE, True, "accept")
    assert waiting.who == "ann? from 10.0.0.7"
    assert waiting.asked_at > 1.7e9
    assert store.waiting_acceptance(2) is None


def test_the_newest_takes_the_place_of_what_still_waits(store: Store) -> None:
    first = store.request_acceptance(1, "accept", "ann", PROMISE)
    store.request_acceptance(2, "accept", "ann", PROMISE)
    second = store.request_acceptance(1, "take-back", "bob")
    waiting = store.waiting_acceptance(1)
    assert waiting is not None
    assert (waiting.id, waiting.action) == (second.id, "take-back")
    assert [one.state for one in store.acceptance_requests(1)] == ["waiting", "replaced"]
    assert store.waiting_acceptance(2) is not None, "another project's goes on"
    store.end_acceptance(first.id, "waiting", "Label Studio does not answer")
    assert store.acceptance_requests(1)[1].state == "replaced", "a late failure does not bring it back"
    store.end_acceptance(first.id, "done", "12 masks accepted")
    assert store.acceptance_requests(1)[1].outcome == "12 masks accepted", "what was done all the same is told"
    with pytest.raises(PseudoLabelError):
        waiting.promise  # noqa: B018


def test_what_came_of_it_is_kept_with_how_often_it_was_tried(store: Store) -> None:
    asked = store.request_acceptance(1, "accept", "ann", PROMISE)
    store.begin_acceptance(asked.id)
    store.begin_acceptance(asked.id)
    store.end_acceptance(asked.id, "refused", "label 10 more audit tasks", 10)
    (kept,) = store.acceptance_requests(1)
    assert (kept.state, kept.tries, kept.needed, kept.outcome) == ("refused", 2, 10, "label 10 more audit tasks")
    assert kept.changed_at >= kept.asked_at


def test_old_ones_go_and_a_forgotten_projects_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    for _ in range(5):
        store.request_acceptance(1, "accept", "ann", PROMISE)
    assert len(store.acceptance_requests(1)) == 3
    assert store.waiting_acceptance(1) is not None
    store.forget(1)
    assert store.acceptance_requests(1) == []


@pytest.mark.parametrize(("action", "promise"), [("accept", None), ("take-back", PROMISE), ("explode", PROMISE)])
def test_what_makes_no_sense_is_refused(store: Store, action: str, promise: RiskGuarantee | None) -> None:
    with pytest.raises(StoreError, match="`accept` with a promise"):
        store.request_acceptance(1, action, "ann", promise)  # type: ignore[arg-type]
