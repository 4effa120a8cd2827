"""A token of either kind becomes the header that a request needs now, and is never shown."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import httpx
import pytest

from backend.errors import TokenError
from backend.label_studio.auth import LIFE_S, RENEW_AT, TokenSource, token_kind

URL = "http://studio/label"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{body}.c2ln"


PERSONAL = jwt(token_type="refresh", exp=9e9, iat=1)
ACCESS = jwt(token_type="access", iat=100, exp=400)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("backend.label_studio.auth.time", clock)
    return clock


def source(key: str, answer: Callable[[httpx.Request], httpx.Response] | None = None) -> TokenSource:
    """Tokens of a Label Studio that answers so; without an answer, whoever asks it fails."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"Label Studio was asked for {request.url}")

    return TokenSource(URL + "/", key, httpx.Client(transport=httpx.MockTransport(answer or refuse)))


class Exchange:
    """Hands out access tokens of so many seconds."""

    def __init__(self, life: float | None) -> None:
        self.life, self.given = life, [""][:0]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, str(request.url)) == ("POST", f"{URL}/api/token/refresh")
        assert json.loads(request.content) == {"refresh": PERSONAL}
        times = {} if self.life is None else {"iat": 100, "exp": 100 + self.life}
        self.given.append(jwt(token_type="access", n=len(self.given), **times))
        return httpx.Response(200, json={"access": self.given[-1]})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("", "none"),
        (LEGACY, "legacy"),
        (PERSONAL, "personal"),
        (ACCESS, "access"),
        ("a.b.c", "legacy"),
        ("a..c", "legacy"),
        (jwt().replace("e30", base64.urlsafe_b64encode(b"[]").decode().rstrip("=")), "legacy"),
    ],
)
def test_the_kind_of_a_token_is_told_from_its_own_form(key: str, kind: str) -> None:
    assert token_kind(key) == kind


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("", {}),
        (f" {LEGACY}\n", {"Authorization": f"Token {LEGACY}"}),
        (ACCESS, {"Authorization": f"Bearer {ACCESS}"}),
    ],
)
def test_tokens_that_need_no_exchange_are_sent_as_they_are(key: str, header: dict[str, str]) -> None:
    tokens = source(key)
    assert tokens.header() == header
    assert not tokens.forget(), "no other can be had"


@pytest.mark.parametrize("life", [300, 40])
def test_a_personal_token_is_exchanged_once_and_again_before_the_access_token_expires(
    life: float, clock: Clock
) -> None:
    exchange = Exchange(life)
    tokens = source(PERSONAL, exchange)
    assert tokens.header() == tokens.header() == {"Authorization": f"Bearer {exchange.given[0]}"}
    clock.now += RENEW_AT * life - 0.1
    tokens.header()
    assert len(exchange.given) == 1
    clock.now += 0.2
    assert tokens.header() == {"Authorization": f"Bearer {exchange.given[1]}"}


@pytest.mark.parametrize(("life", "taken_for"), [(0.001, 1.0), (-5, 1.0), (None, LIFE_S)])
def test_a_life_that_is_too_short_or_unknown_does_not_renew_at_every_request(
    life: float | None, taken_for: float, clock: Clock
) -> None:
    exchange = Exchange(life)
    tokens = source(PERSONAL, exchange)
    tokens.header()
    clock.now += RENEW_AT * taken_for - 0.01
    tokens.header()
    assert len(exchange.given) == 1
    clock.now += 0.02
    tokens.header()
    assert len(exchange.given) == 2


def test_a_forgotten_access_token_is_replaced(clock: Clock) -> None:
    exchange = Exchange(300)
    tokens = source(PERSONAL, exchange)
    tokens.header()
    assert tokens.forget()
    assert tokens.header() == {"Authorization": f"Bearer {exchange.given[1]}"}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"access": 3}),
        httpx.Response(200, json=[ACCESS]),
        httpx.Response(302, headers={"Location": "http://elsewhere/"}),
    ],
)
def test_a_refused_exchange_says_so_without_the_token(answer: httpx.Response) -> None:
    with pytest.raises(TokenError, match=f"HTTP {answer.status_code}") as caught:
        source(PERSONAL, lambda request: answer).header()
    assert caught.value.status == answer.status_code
    assert PERSONAL not in str(caught.value)


def test_a_label_studio_that_does_not_answer_the_exchange_is_said() -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(TokenError, match="ConnectError; check LABEL_STUDIO_URL"):
        source(PERSONAL, lost).header()


@pytest.mark.parametrize("key", [LEGACY, PERSONAL, ACCESS])
def test_a_token_is_not_shown(key: str) -> None:
    assert key not in repr(source(key))
    assert URL in repr(source(key))
