"""How a request about accepted masks stands, in a sentence."""

from __future__ import annotations

import pytest

from backend.store import Store
from backend.web.dashboard.acceptance import asked_of, promise_of
from usam.pseudo_labels.guarantee import RiskGuarantee

PROMISE = RiskGuarantee(0.8, 0.1, 0.9, per_image=2)


@pytest.mark.parametrize(
    ("state", "outcome", "needed", "words"),
    [
        ("waiting", "", 0, "Waits for a worker."),
        ("waiting", "Label Studio is away", 0, "It did not work and is tried again by itself: Label Studio is away"),
        (
            "refused",
            "too few",
            1,
            "Nothing is accepted: the promise cannot be kept yet. Label 1 more audit task first.",
        ),
        ("refused", "too few", 1200, "Label 1,200 more audit tasks first. (too few)"),
        ("refused", "more would not do", 0, "Nothing is accepted: the promise cannot be kept. (more would not do)"),
        ("done", "12 of 40 masks accepted", 0, "Done: 12 of 40 masks accepted"),
        ("skipped", "neither labels nor tasks have changed", 0, "Nothing to do: neither labels"),
        ("failed", "no room", 0, "Not done: no room"),
        ("replaced", "", 0, "Not done."),
    ],
)
def test_each_state_is_a_sentence(store: Store, state: str, outcome: str, needed: int, words: str) -> None:
    asked = store.request_acceptance(3, "accept", "ann", PROMISE)
    store.end_acceptance(asked.id, state, outcome, needed)
    (one,) = asked_of(store, 3)
    assert words in one.words
    assert (one.what, one.who, one.state) == (
        "Accept, IoU 0.8 for all but 10%, confidence 90%, at most 2 of an image",
        "ann",
        state,
    )
    assert one.is_open is (state == "waiting")


def test_how_far_it_is_comes_from_the_run_that_began_after_it(store: Store) -> None:
    run = store.start_run(3, "pseudo_label")
    store.update_run(run, done=1, total=9)
    store.request_acceptance(3, "take-back", "ann")
    assert asked_of(store, 3)[0].state == "waiting", "what ran before is another's"
    run = store.start_run(3, "pseudo_label")
    assert asked_of(store, 3)[0].words == "Being done now: begun."
    store.update_run(run, done=5, total=9)
    (one,) = asked_of(store, 3)
    assert (one.what, one.state, one.done, one.total, one.words) == (
        "Take back",
        "running",
        5,
        9,
        "Being done now: 5 of 9.",
    )
    store.finish_run(run, "failed", "killed")
    assert asked_of(store, 3)[0].state == "waiting"


def test_the_newest_come_first_and_are_few(store: Store) -> None:
    for number in range(8):
        store.request_acceptance(3, "take-back", f"person {number}")
    assert [one.who for one in asked_of(store, 3)] == [f"person {number}" for number in (7, 6, 5, 4, 3)]


def test_what_an_address_asks_for_is_within_the_sliders() -> None:
    assert promise_of({}) == RiskGuarantee(0.8, 0.1, 0.9)
    assert promise_of({"iou": "0.9", "risk": "0.2", "confidence": "0.95"}) == RiskGuarantee(0.9, 0.2, 0.95)
    assert promise_of({"iou": "9", "risk": "-1", "confidence": "nan"}) == RiskGuarantee(0.95, 0.01, 0.9)
