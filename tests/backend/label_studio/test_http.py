"""Reads are tried again and writes are not; errors say what Label Studio said, and never the token."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator
from datetime import datetime, timezone

import httpx
import pytest

from backend.errors import LabelStudioError, LabelStudioUnreachable, TokenError
from backend.label_studio.http import READ_TRIES, AnswerTooLarge, Connection, items

TOKEN = "0123456789abcdef0123456789abcdef01234567"
Answer = httpx.Response | httpx.HTTPError


class Script:
    """Gives these answers in turn; keeps the requests that came."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return answer


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def connection(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setattr("backend.label_studio.http.time.sleep", lambda seconds: None)
    with Connection("http://studio/", TOKEN, transport=httpx.MockTransport(script)) as connection:
        yield connection


FINE = {"id": 1}


@pytest.mark.parametrize(
    "troubles",
    [
        (httpx.Response(503), httpx.Response(502)),
        (httpx.ConnectError("refused"), httpx.ReadTimeout("late")),
        (httpx.Response(504),),
        (httpx.Response(429, headers={"Retry-After": "2"}), httpx.Response(429, text="<html>slow down</html>")),
    ],
)
def test_a_read_is_tried_again(troubles: tuple[Answer, ...], script: Script, connection: Connection) -> None:
    script.answers = [*troubles, httpx.Response(200, json=FINE)]
    assert connection._object("GET", "/api/x") == FINE
    assert len(script.requests) == len(troubles) + 1


@pytest.mark.parametrize(
    ("trouble", "kind"), [(httpx.Response(503), LabelStudioError), (httpx.ConnectError(""), LabelStudioUnreachable)]
)
def test_a_read_is_not_tried_for_ever(
    trouble: Answer, kind: type[LabelStudioError], script: Script, connection: Connection
) -> None:
    script.answers = [trouble] * 9
    with pytest.raises(kind):
        connection._object("GET", "/api/x")
    assert len(script.requests) == READ_TRIES


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("trouble", [httpx.Response(503), httpx.ReadTimeout("late")])
def test_a_write_is_sent_once(method: str, trouble: Answer, script: Script, connection: Connection) -> None:
    script.answers = [trouble, httpx.Response(200, json=FINE)]
    with pytest.raises(LabelStudioError):
        connection._object(method, "/api/x")
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_read_that_was_refused_is_not_tried_again(status: int, script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(status, json={"detail": "why"})]
    with pytest.raises(LabelStudioError, match=f"HTTP {status} .why.") as caught:
        connection._object("GET", "/api/x")
    assert caught.value.status == status


def test_the_token_travels_in_the_header_and_never_in_an_error(script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(403, json={"detail": "no rights"})]
    with pytest.raises(TokenError, match="no rights") as caught:
        connection._object("GET", "/api/x")
    assert str(script.requests[0].url) == "http://studio/api/x"
    assert script.requests[0].headers["Authorization"] == f"Token {TOKEN}"
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(connection)


def test_a_dead_access_token_is_renewed_once_also_for_a_write(script: Script) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"token_type": "refresh"}).encode()).decode().rstrip("=")
    first, second = (httpx.Response(200, json={"access": name}) for name in ("first", "second"))
    dead = httpx.Response(401, json={})
    with Connection("http://studio", f"a.{claims}.b", transport=httpx.MockTransport(script)) as connection:
        script.answers = [first, dead, second, httpx.Response(200, json=FINE)]
        assert connection._object("POST", "/api/x") == FINE
        sent = [request.headers.get("Authorization") for request in script.requests if request.url.path == "/api/x"]
        assert sent == ["Bearer first", "Bearer second"]
        script.answers = [dead, first, dead]
        with pytest.raises(TokenError, match="401"):
            connection._object("POST", "/api/x")


def test_a_redirect_is_refused(script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(302, headers={"Location": "http://elsewhere.invalid/"})]
    with pytest.raises(LabelStudioError, match="redirect"):
        connection._object("GET", "/api/x")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "own"),
    [
        (httpx.Response(404, json={"detail": "Not found."}), True),
        (httpx.Response(404, text="<html>"), False),
        (httpx.Response(404, json=["detail"]), False),
    ],
)
def test_label_studios_own_refusal_is_told_from_that_of_a_proxy(
    answer: httpx.Response, own: bool, script: Script, connection: Connection
) -> None:
    script.answers = [answer]
    with pytest.raises(LabelStudioError) as caught:
        connection._object("GET", "/api/x")
    assert caught.value.is_from_label_studio is own


@pytest.mark.parametrize(("text", "expected"), [("<html>", "JSON"), ("[]", "an object"), ("3", "an object")])
def test_another_shape_of_answer_is_said(text: str, expected: str, script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(200, text=text)]
    with pytest.raises(LabelStudioError, match=expected):
        connection._object("GET", "/api/x")


def test_a_status_that_means_nothing_is_there_gives_an_empty_object(script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(404, json={"detail": "Invalid page."}), httpx.Response(500, json={})]
    assert connection._object("GET", "/api/x", empty_on=(404,)) == {}
    with pytest.raises(LabelStudioError, match="500"):
        connection._object("GET", "/api/x", empty_on=(404,))
    script.answers = [httpx.Response(404, text="<html>")]
    with pytest.raises(LabelStudioError, match="404"):  # of a proxy
        connection._object("GET", "/api/x", empty_on=(404,))


@pytest.mark.parametrize("value", [{}, None, [1], [{}, None], "x"])
def test_what_is_no_list_of_objects_is_refused(value: object) -> None:
    with pytest.raises(LabelStudioError, match="a list of tasks"):
        items(value, "tasks")


def test_a_list_of_objects_is_taken_as_it_is(script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(200, json=[FINE]), httpx.Response(200, json=[])]
    assert connection._list("/api/x", {"page": 1}) == [FINE]
    assert script.requests[0].url.params["page"] == "1"
    assert connection._list("/api/x", {}) == []


def test_an_endless_number_in_an_answer_refuses_nothing_else(script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(200, text='{"id": 1, "bad": [' + "9" * 5000 + ", -" + "9" * 5000 + "]}")]
    assert connection._object("GET", "/api/x") == {"id": 1, "bad": [math.inf, -math.inf]}


def test_its_clock_is_what_it_last_said(script: Script, connection: Connection) -> None:
    assert connection.clock() is None
    script.answers = [httpx.Response(200, json={}, headers={"Date": "Thu, 01 Jan 2026 00:01:00 GMT"})]
    connection._object("GET", "/api/version")
    assert connection.clock() == datetime(2026, 1, 1, 0, 1, tzinfo=timezone.utc)
    script.answers = [httpx.Response(200, json={}, headers={"Date": "noon"})]
    connection._object("GET", "/api/version")
    assert connection.clock() is None


def test_who_asks_for_fewer_requests_is_waited_for_with_writes_too(
    script: Script, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("backend.label_studio.http.time.sleep", pauses.append)
    script.answers = [httpx.Response(429, headers={"Retry-After": asked}) for asked in ("2", "99999")]
    script.answers.append(httpx.Response(201, json=FINE))
    assert connection._object("POST", "/api/things", json={}) == FINE
    assert pauses == [2.0, 10.0]
    script.answers = [httpx.Response(429)] * READ_TRIES
    with pytest.raises(LabelStudioError, match="HTTP 429; try again later"):
        connection._object("POST", "/api/things", json={})


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_web_page_with_status_200_is_no_success(method: str, script: Script, connection: Connection) -> None:
    script.answers = [httpx.Response(200, html="<html>please log in</html>")]
    with pytest.raises(LabelStudioError, match="a web page"):
        connection._send(method, "/api/predictions/1/")
    script.answers = [httpx.Response(204, headers={"Content-Type": "text/html"})]
    connection._send("DELETE", "/api/predictions/1/")


class Dripping(httpx.SyncByteStream):
    """A body that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"          "


def test_an_answer_that_never_ends_is_given_up(
    script: Script, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.label_studio.http.ANSWER_BYTES", 1000)
    script.answers = [httpx.Response(200, stream=Dripping())]
    with pytest.raises(AnswerTooLarge, match="at most 1,000 bytes from /api/x"):
        connection._object("GET", "/api/x")
    now = iter(range(0, 10**6, 100))
    monkeypatch.setattr("backend.label_studio.http.time.monotonic", lambda: next(now))
    monkeypatch.setattr("backend.label_studio.http.ANSWER_BYTES", 10**9)
    script.answers = [httpx.Response(200, stream=Dripping()) for _ in range(READ_TRIES)]
    with pytest.raises(LabelStudioUnreachable, match="ReadTimeout"):
        connection._object("GET", "/api/x")


def test_an_answer_that_came_packed_is_read(script: Script, connection: Connection) -> None:
    packed = gzip.compress(json.dumps(FINE).encode())
    script.answers = [httpx.Response(200, content=packed, headers={"Content-Encoding": "gzip"})]
    assert connection._object("GET", "/api/x") == FINE
