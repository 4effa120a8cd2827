"""What is done from the page: only with the form's own token, as the commands do it, and written down with who."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from backend.errors import QueueError, RegistryError, StoreError
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.dashboard import actions as module
from backend.web.dashboard.actions import NOBODY, ActionLog, Actions, Done, Tokens, Wish, read_form, who_asks
from backend.web.dashboard.versions import BASE_NAME
from tests.factories import PageQueue, head_set
from usam.pseudo_labels.guarantee import RiskGuarantee

PROMISE = RiskGuarantee(0.8, 0.1, 0.9)


@pytest.fixture
def actions(store: Store, registry: Registry, queue: PageQueue, tmp_path: Path) -> Actions:
    return Actions(store, registry, queue, ActionLog(tmp_path / "log" / "actions.jsonl"))  # type: ignore[arg-type]


def test_a_roll_back_moves_the_pointer_and_says_who(actions: Actions, registry: Registry, queue: PageQueue) -> None:
    outcome = actions.do(Wish("rollback", 3, head_set(1).version), "ann from 10.0.0.7")
    assert registry.champion(3) == head_set(1).version
    assert registry.history(3)[-1].kind == "rollback"
    assert "ann from 10.0.0.7" in registry.history(3)[-1].reason
    assert queue.jobs == [(3, "score_pool")]
    (done,) = actions.log.last(3)
    assert (done.who, done.action, done.version, done.outcome) == (
        "ann from 10.0.0.7",
        "rollback",
        head_set(1).version,
        outcome,
    )
    assert done.at > 1.7e9


def test_the_checkpoints_own_heads_can_be_gone_back_to(actions: Actions, registry: Registry) -> None:
    actions.do(Wish("rollback", 3, BASE_NAME), "ann")
    assert registry.champion(3) == ""


def test_a_roll_back_counts_although_redis_is_lost(actions: Actions, registry: Registry, queue: PageQueue) -> None:
    queue.lost = True
    assert "waits for Redis" in actions.do(Wish("rollback", 3, BASE_NAME), "ann")
    assert registry.champion(3) == ""


def test_training_and_ranking_are_asked_for_as_the_commands_do(
    actions: Actions, queue: PageQueue, store: Store
) -> None:
    store.finish_run(store.runs(3, "score_pool")[0].id, "done")
    actions.do(Wish("train", 3), "ann")
    actions.do(Wish("rank", 3), "ann")
    assert queue.jobs == [(3, "retrain"), (3, "score_pool")]
    run = store.last_run(3, "score_pool")
    assert run is not None
    assert run.state == "interrupted", "so that the ranking is made although nothing has changed"
    assert "by ann" in run.reason


def test_a_ranking_that_runs_is_not_said_to_have_ended(actions: Actions, queue: PageQueue, store: Store) -> None:
    assert "runs already" in actions.do(Wish("rank", 3), "ann")
    assert queue.jobs == [(3, "score_pool")]
    assert [run.state for run in store.runs(3, "score_pool")] == ["running"]


def test_what_is_asked_about_accepted_masks_waits_in_the_store_and_the_job_is_waked(
    actions: Actions, queue: PageQueue, store: Store
) -> None:
    outcome = actions.do(Wish("accept", 3, promise=PROMISE), "ann from 10.0.0.7")
    waiting = store.waiting_acceptance(3)
    assert waiting is not None
    assert (waiting.action, waiting.promise, waiting.who) == ("accept", PROMISE, "ann from 10.0.0.7")
    assert outcome == "asked for, IoU 0.8 for all but 10%, confidence 90%, at most 3 of an image"
    actions.do(Wish("take-back", 3), "bob")
    assert [(one.action, one.state) for one in store.acceptance_requests(3)] == [
        ("take-back", "waiting"),
        ("accept", "replaced"),
    ]
    assert queue.jobs == [(3, "pseudo_label"), (3, "pseudo_label")]
    assert [(done.action, done.who) for done in actions.log.last(3)] == [
        ("take-back", "bob"),
        ("accept", "ann from 10.0.0.7"),
    ]


def test_what_is_asked_while_redis_is_lost_is_not_forgotten(actions: Actions, queue: PageQueue, store: Store) -> None:
    queue.lost = True
    assert "waits for Redis" in actions.do(Wish("take-back", 3), "ann")
    assert store.waiting_acceptance(3) is not None
    with pytest.raises(StoreError):
        actions.do(Wish("accept", 3), "ann")
    assert actions.log.last(3)[0].outcome.startswith("not done")


def test_what_is_not_done_is_written_down_too(actions: Actions, queue: PageQueue, registry: Registry) -> None:
    queue.lost = True
    with pytest.raises(QueueError):
        actions.do(Wish("train", 3), "ann")
    with pytest.raises(RegistryError):
        actions.do(Wish("rollback", 3, "../../elsewhere"), "ann")
    assert [done.outcome.partition(":")[0] for done in actions.log.last(3)] == ["not done", "not done"]
    assert registry.champion(3) == head_set(2).version


def test_without_parts_nothing_is_done(tmp_path: Path) -> None:
    bare = Actions(None, None, None, ActionLog(tmp_path / "log"))
    for wish in (Wish("train", 3), Wish("rank", 3)):
        with pytest.raises(QueueError):
            bare.do(wish, "ann")
    with pytest.raises(RegistryError):
        bare.do(Wish("rollback", 3, "v"), "ann")
    with pytest.raises(StoreError):
        bare.do(Wish("take-back", 3), "ann")


def test_a_token_is_of_one_wish_one_person_and_one_process() -> None:
    tokens, wish = Tokens(), Wish("rollback", 3, "v1")
    good = tokens.of(wish, "ann")
    assert tokens.fits(wish, "ann", good)
    for other, who, given in (
        (wish, "bob", good),
        (Wish("rollback", 3, "v2"), "ann", good),
        (Wish("rollback", 4, "v1"), "ann", good),
        (Wish("train", 3, "v1"), "ann", good),
        (wish, "ann", ""),
        (wish, "ann", "\ud800"),
    ):
        assert not tokens.fits(other, who, given)
    assert not Tokens().fits(wish, "ann", good)
    accept = Wish("accept", 3, promise=PROMISE)
    assert not tokens.fits(Wish("accept", 3, promise=RiskGuarantee(0.8, 0.2, 0.9)), "ann", tokens.of(accept, "ann"))


def test_the_services_log_has_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ActionLog(tmp_path / "log").add(Done(1.0, "ann", "rollback", 3, "v1", "now v1"))
    assert "rollback of project 3 to v1 by ann: now v1" in caplog.text


def test_the_log_is_bounded_and_bad_lines_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 2000)
    log = ActionLog(tmp_path / "log")
    for number in range(100):
        log.add(Done(float(number), "ann", "train", 3 + number % 2, "", "x"))
    assert log.path.stat().st_size <= 2200
    with log.path.open("a") as file:
        file.write("{\n" + json.dumps({"at": 1}) + "\n")
    assert [done.at for done in log.last(4, 2)] == [99.0, 97.0]
    assert ActionLog(tmp_path / "none").last(3) == []


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ActionLog(tmp_path / "file" / "log").add(Done(1.0, "ann", "train", 3, "", "x"))


@pytest.mark.parametrize(
    ("header", "who"),
    [
        ("Basic YW5uOnNlY3JldA==", "ann from 10.0.0.7"),
        ("basic w6TDtjpw", "äö from 10.0.0.7"),
        ("Bearer secret", "the bearer of the token, from 10.0.0.7"),
        ("", NOBODY),
        ("Basic ???", NOBODY),
    ],
)
def test_it_is_known_who_asks_and_no_secret_is_kept(header: str, who: str) -> None:
    assert who_asks(header, "10.0.0.7") == who
    assert "secret" not in who


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"token=a%2Bb&version=v1", {"token": "a+b", "version": "v1"}),
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"&".join(b"a=1" for _ in range(50)), {}),
        (b'{"token": "x"}', {}),
    ],
)
def test_a_form_is_read_or_is_none(body: bytes, fields: dict[str, str]) -> None:
    assert read_form(body) == fields
