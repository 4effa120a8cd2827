"""What was asked for is done once, by the queue's job, and what came of it stands beside who asked and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import LabelStudioError, LabelStudioUnreachable
from backend.jobs import acceptance, pseudo_label
from backend.jobs.acceptance import perform, run
from backend.jobs.pseudo_label import Undone
from backend.jobs.sync import run as sync
from backend.resources import Resources
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.store.requests import MOST_TRIES
from tests.backend.jobs.test_pseudo_label import PROMISE, audits, label_audits, ready
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import RiskGuarantee


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = ready(tmp_path)
    yield opened
    opened.store.close()


def states(place: Resources) -> list[str]:
    return [one.state for one in reversed(place.store.acceptance_requests(1))]


def test_masks_are_accepted_at_the_promise_that_was_asked_for_and_taken_back(place: Resources) -> None:
    label_audits(place)
    asked = place.store.request_acceptance(1, "accept", "ann", PROMISE)
    assert asked.promise == PROMISE
    run(place, 1)
    standing = PseudoLabelStore.of(place.settings).standing(1)
    assert standing is not None
    assert standing.calibration.promise == PROMISE
    (done,) = place.store.acceptance_requests(1)
    assert (done.state, done.who, done.tries) == ("done", "ann", 1)
    assert f"{len(standing.masks)} of" in done.outcome
    before = list(place.label_studio.prediction_list)  # type: ignore[attr-defined]

    place.store.request_acceptance(1, "accept", "bob", PROMISE)
    run(place, 1)
    assert states(place) == ["done", "skipped"], "asked for twice, accepted once"
    assert place.label_studio.prediction_list == before  # type: ignore[attr-defined]

    place.store.request_acceptance(1, "take-back", "bob")
    run(place, 1)
    assert states(place)[-1] == "done"
    assert place.label_studio.prediction_list == []  # type: ignore[attr-defined]
    run(place, 1)
    assert place.store.runs(1, "pseudo_label", limit=1)[0].reason == "no promise is in force", (
        "nothing waits: it watches"
    )


def test_a_refusal_says_how_many_audits_are_missing_and_is_not_tried_again(place: Resources) -> None:
    place.store.request_acceptance(1, "accept", "ann", PROMISE)
    run(place, 1)
    (refused,) = place.store.acceptance_requests(1)
    assert refused.state == "refused"
    assert refused.needed > 0
    assert f"label {refused.needed} more audit tasks" in refused.outcome
    assert place.store.waiting_acceptance(1) is None


def test_what_is_in_the_way_leaves_it_waiting_until_it_was_tried_often(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise LabelStudioUnreachable("Label Studio to answer", "nothing", "start it")

    monkeypatch.setattr(pseudo_label, "run", gone)
    place.store.request_acceptance(1, "accept", "ann", PROMISE)
    for _ in range(MOST_TRIES):
        assert place.store.waiting_acceptance(1) is not None
        with pytest.raises(LabelStudioError):
            run(place, 1)
    (failed,) = place.store.acceptance_requests(1)
    assert failed.state == "failed"
    assert "start it" in failed.outcome


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_what_a_command_asks_for_is_not_tried_again(
    place: Resources, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise kind

    monkeypatch.setattr(pseudo_label, "run", killed)
    request = place.store.request_acceptance(1, "accept", "ann on the command line", PROMISE)
    with pytest.raises(kind):
        perform(place, 1, request, tried_again=False)
    assert states(place) == ["failed"]


def test_a_worker_that_is_stopped_leaves_it_waiting(place: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(pseudo_label, "run", stopped)
    place.store.request_acceptance(1, "accept", "ann", PROMISE)
    with pytest.raises(SystemExit):
        run(place, 1)
    assert states(place) == ["waiting"]


def test_what_is_asked_for_while_another_is_done_is_done_next(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(given: Resources, project: int, promise: RiskGuarantee, **_: Any) -> None:
        place.store.request_acceptance(1, "take-back", "bob")

    monkeypatch.setattr(pseudo_label, "run", slow)
    place.store.request_acceptance(1, "accept", "ann", PROMISE)
    run(place, 1)
    assert states(place) == ["done", "waiting"]
    run(place, 1)
    assert states(place) == ["done", "skipped"], "nothing was accepted"


def test_a_sync_wakes_what_a_lost_queue_forgot(place: Resources) -> None:
    place.store.request_acceptance(1, "accept", "ann", PROMISE)
    queue: Any = place.queue
    queue.waked.clear()
    sync(place, 1)
    assert "pseudo_label" in queue.waked
    run(place, 1)
    queue.waked.clear()
    sync(place, 1)
    assert "pseudo_label" not in queue.waked


def test_what_a_person_changed_is_named(place: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance.pseudo_label, "undo", lambda *_: Undone(("v",), 1, (17, 18)))
    place.store.request_acceptance(1, "take-back", "ann")
    run(place, 1)
    assert place.store.acceptance_requests(1)[0].outcome.endswith("so kept: annotations 17, 18")


def test_the_command_hears_the_refusal(place: Resources) -> None:
    assert audits(place)
    request = place.store.request_acceptance(1, "accept", "ann", PROMISE)
    with pytest.raises(PseudoLabelError, match="audit"):
        perform(place, 1, request)
