"""What is known of Label Studio and Redis: looked at aside, and said with what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from backend.errors import LabelStudioError, LabelStudioUnreachable, QueueError, TokenError
from backend.label_studio.records import Project
from backend.settings import Settings
from backend.web.dashboard.surroundings import Seen, Surroundings, label_studio_of, notice_of


class Queue:
    def __init__(self, answers: bool = True, workers: int = 1, error: bool = False) -> None:
        self.here, self.count, self.error = answers, workers, error

    def answers(self) -> bool:
        return self.here

    def workers(self) -> int:
        if self.error:
            raise QueueError("Redis to answer", "none")
        return self.count


class Source:
    def __init__(self, found: list[Project] | Exception) -> None:
        self.found = found

    def projects(self) -> list[Project]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def around(found: list[Project] | Exception, queue: Queue | None = None) -> Surroundings:
    @contextmanager
    def opened() -> Iterator[Source]:
        yield Source(found)

    return Surroundings(opened, queue)


CATS = Project(3, "Cats", "<View/>", "", "", "2026")


def test_titles_come_from_label_studio() -> None:
    seen = around([CATS], Queue()).look()
    assert seen.projects == {3: CATS}
    assert seen.notices == ()


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        (Queue(answers=False), "Redis does not answer"),
        (Queue(error=True), "Redis does not answer"),
        (Queue(workers=0), "No worker runs"),
    ],
)
def test_a_lost_redis_and_a_lost_worker_are_said(queue: Queue, words: str) -> None:
    (notice,) = around([CATS], queue).look().notices
    assert words in notice.text
    assert notice.remedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TokenError("success", "HTTP 401", "set a token", status=401), "refuses the token"),
        (LabelStudioUnreachable("an answer", "ConnectError"), "does not answer"),
        (LabelStudioError("JSON", "text/html", "check the address"), "text/html"),
    ],
)
def test_what_label_studio_does_is_said_with_what_to_do(error: LabelStudioError, words: str) -> None:
    assert words in notice_of(error).text
    assert notice_of(error).remedy
    (notice,) = around(error).look().notices
    assert notice == notice_of(error)


def test_titles_stay_known_while_label_studio_is_away() -> None:
    surroundings = around([CATS])
    surroundings.look()
    surroundings.open_label_studio = around(LabelStudioUnreachable("an answer", "none")).open_label_studio
    assert surroundings.look().projects == {3: CATS}


def test_an_error_that_nobody_thought_of_is_no_error_of_the_page() -> None:
    assert around(RuntimeError("surprise")).look() == Seen(None, ())


def test_seen_never_waits_and_looks_once_at_a_time() -> None:
    surroundings, go, looks = around([CATS]), threading.Event(), []

    @contextmanager
    def slow() -> Iterator[Source]:
        looks.append(1)
        assert go.wait(10)
        yield Source([CATS])

    surroundings.open_label_studio = slow
    assert surroundings.seen().projects is None
    for _ in range(200):
        if surroundings._looking.locked():
            break
        threading.Event().wait(0.01)
    assert surroundings.seen() is surroundings.look(), "the second does not look"
    go.set()
    with surroundings._looking:
        pass
    assert surroundings.seen().projects == {3: CATS}
    assert len(looks) == 1, "what was found is kept for a while"


def test_without_a_token_label_studio_is_not_asked() -> None:
    assert label_studio_of(Settings(label_studio_url="http://labels.example")) is None
    assert (
        label_studio_of(Settings(label_studio_url="http://l.example", label_studio_api_key=SecretStr("t"))) is not None
    )
