"""Who may ask, and how much, of any application behind the layer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.metrics.service import Metrics
from backend.settings import Settings
from backend.web.auth import OPEN_PATHS, Access

BASIC = base64.b64encode("mé:pass:word".encode()).decode()

CREDENTIALS = (
    (None, 401),
    (f"Basic {BASIC}", 200),
    (f"basic {BASIC}", 200),
    ("Basic " + base64.b64encode(b"me:wrong").decode(), 401),
    ("Basic !!!", 401),
    ("Bearer sesame", 200),
    ("Bearer Sesame", 401),
    ("Bearer", 401),
    ("Token sesame", 401),
    ("Bearer s\u00e9same", 401),
)


class Echo:
    """An application that reads the whole body and answers with its length; notes what it was asked for."""

    def __init__(self, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.paths: list[str] = []
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope.get("path", scope["type"]))
        length = 0
        while scope["type"] == "http":
            message = await receive()
            length += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
            await send({"type": "http.response.body", "body": str(length).encode()})


class Door:
    """The layer before an `Echo`, as an HTTP client sees it."""

    def __init__(self, echo: Echo | None = None, **given: Any) -> None:
        self.echo, self.metrics = echo or Echo(), Metrics()
        self.app = Access(self.echo, Settings(**given), self.metrics, ("/webhook", "/metrics", "/health"))

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def counted(self, route: str, status: int) -> float:
        found = self.metrics.registry.get_sample_value("usam_requests_total", {"route": route, "status": str(status)})
        return found or 0.0


@pytest.mark.parametrize(("header", "status"), CREDENTIALS)
def test_only_the_right_credentials_come_through(header: str | None, status: int) -> None:
    door = Door(auth_user="m\u00e9", auth_password="pass:word", auth_token="sesame")
    headers = {b"Authorization": header.encode("latin-1")} if header is not None else {}
    answer = door.ask("GET", "/metrics", headers=headers)
    assert answer.status_code == status
    assert (status == 401) == ("www-authenticate" in answer.headers)
    assert bool(door.echo.paths) == (status == 200), "whoever is refused reaches nothing"


def test_a_name_in_latin_1_is_the_same_name() -> None:
    door = Door(auth_user="m\u00e9", auth_password="word")
    pair = base64.b64encode("m\u00e9:word".encode("latin-1")).decode()
    assert door.ask("GET", "/metrics", headers={"Authorization": f"Basic {pair}"}).status_code == 200


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic", "Basic " + base64.b64encode(b"u:").decode()])
def test_what_is_not_set_lets_nobody_in(header: str) -> None:
    door = Door(auth_user="u", auth_password="p")
    assert door.ask("GET", "/metrics", headers={"Authorization": header}).status_code == 401


def test_health_is_open_and_nothing_else() -> None:
    door = Door(auth_user="u", auth_password="p")
    assert frozenset({"/health"}) == OPEN_PATHS
    assert door.ask("GET", "/health").status_code == 200
    for path in ("/", "/webhook", "/healthy", "/health/x", "//health"):
        assert door.ask("GET", path).status_code == 401, path


def test_without_a_password_who_reaches_us_may_ask() -> None:
    assert Door().ask("GET", "/metrics").status_code == 200


def test_what_a_foreign_page_would_send_is_refused_before_any_credential_is_looked_at() -> None:
    door = Door(auth_user="u", auth_password="p", auth_token="sesame")
    answer = door.ask("GET", "/metrics", headers={"Authorization": "Bearer sesame", "Origin": "https://evil.example"})
    assert (answer.status_code, answer.headers["connection"]) == (403, "close")
    assert door.echo.paths == []


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 128


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_cut_off_at_the_cap_whatever_its_header_says(chunked: bool) -> None:
    door = Door(request_bytes=1024)
    for count, status in ((8, 200), (9, 413)):
        content = pieces(count) if chunked else b"x" * 128 * count
        assert door.ask("POST", "/webhook", content=content).status_code == status
    assert "USAM_REQUEST_BYTES" in door.ask("POST", "/webhook", content=b"x" * 1025).json()["error"]


def test_a_length_that_no_number_holds_is_too_large() -> None:
    answer = Door().ask("POST", "/webhook", content=b"{}", headers={"Content-Length": "9" * 40})
    assert answer.status_code == 413


def test_a_slash_at_the_end_is_the_same_route_and_no_redirect() -> None:
    door = Door()
    answer = door.ask("GET", "/metrics/")
    assert (answer.status_code, door.echo.paths) == (200, ["/metrics"])
    assert door.counted("/metrics", 200) == 1


def test_answers_are_counted_by_route_and_strangers_make_no_new_ones() -> None:
    door = Door(auth_user="u", auth_password="p")
    for path in ("/webhook", "/a", "/b"):
        door.ask("GET", path)
    assert (door.counted("/webhook", 401), door.counted("other", 401)) == (1, 2)


def test_every_answer_carries_the_guards_but_a_routes_own_win() -> None:
    door = Door(Echo(((b"content-security-policy", b"own"),)), auth_user="u", auth_password="p", auth_token="sesame")
    answer = door.ask("GET", "/metrics", headers={"Authorization": "Bearer sesame"})
    assert answer.headers["content-security-policy"] == "own"
    for found in (answer, door.ask("GET", "/metrics")):
        assert found.headers["x-frame-options"] == "DENY"
        assert found.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in door.ask("GET", "/metrics").headers["content-security-policy"]


def test_what_is_no_request_passes_through() -> None:
    door = Door(auth_user="u", auth_password="p")

    async def receive() -> Message:
        raise AssertionError("nothing is asked")

    async def send(message: Message) -> None:
        raise AssertionError("nothing is answered")

    asyncio.run(door.app({"type": "lifespan"}, receive, send))
    assert door.echo.paths == ["lifespan"]
