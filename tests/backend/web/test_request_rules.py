"""What a web page in somebody's browser cannot make the service do."""

from __future__ import annotations

import pytest

from backend.settings import Settings
from backend.web.request_rules import MIB, body_bytes, is_known_host, refusal

OPEN = Settings(hosts="usam.example.org,proxy.example.org:8443")
GUARDED = Settings(auth_user="me", auth_password="pw", host="0.0.0.0")


@pytest.mark.parametrize(
    ("host", "without", "with_password"),
    [
        ("127.0.0.1:9090", True, True),
        ("localhost", True, True),
        ("LOCALHOST:1", True, True),
        ("[::1]:9090", True, True),
        ("host.docker.internal:9090", True, True),
        ("usam.example.org", True, False),
        ("usam.example.org:444", True, False),
        ("proxy.example.org:8443", True, False),
        ("proxy.example.org", False, False),
        ("backend.usam.internal:9090", False, True),
        ("backend:9090", False, True),
        ("192.168.1.7:9090", False, True),
        ("evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("evil.example@127.0.0.1", False, False),
        ("127.0.0.1/evil.example", False, False),
        ("127.0.0.1#.evil.example", False, False),
        ("", False, False),
        ("[::1", False, False),
    ],
)
def test_only_our_own_names_are_answered(host: str, without: bool, with_password: bool) -> None:
    assert is_known_host(host, OPEN) is without
    assert is_known_host(host, GUARDED) is with_password


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 0),
        ({"content-type": "application/json"}, 0),
        ({"content-type": "Application/JSON; charset=utf-8"}, 0),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "http://127.0.0.1:9090", "content-type": "application/json"}, 0),
        ({"origin": "http://127.0.0.1:9090"}, 415),
        ({"origin": "http://127.0.0.1:9091", "content-type": "application/json"}, 403),
        ({"origin": "https://evil.example", "content-type": "application/json"}, 403),
        ({"origin": "null", "content-type": "application/json"}, 403),
        ({"origin": "http://[", "content-type": "application/json"}, 403),
        ({"host": "evil.example", "content-type": "application/json"}, 421),
    ],
)
def test_what_only_a_foreign_page_sends_is_refused(headers: dict[str, str], status: int) -> None:
    given = {"host": "127.0.0.1:9090", **headers}
    raw = {name.encode(): value.encode() for name, value in given.items()}
    refused = refusal("POST", "/webhook", raw, OPEN)
    assert (refused[0] if refused else 0) == status
    assert refusal("GET", "/health", raw, OPEN) is None


@pytest.mark.parametrize(("kind", "status"), [("", 415), ("text/plain", 415), ("application/json", 0)])
def test_a_call_that_changes_something_says_that_it_is_json(kind: str, status: int) -> None:
    raw = {b"host": b"127.0.0.1:9090"} | ({b"content-type": kind.encode()} if kind else {})
    refused = refusal("POST", "/api/projects/3/train", raw, OPEN)
    assert (refused[0] if refused else 0) == status


def test_bodies_have_limits_by_route() -> None:
    assert body_bytes("/predict", OPEN) == body_bytes("/webhook", OPEN) == OPEN.request_bytes
    assert body_bytes("/setup", OPEN) == 4 * MIB
    assert body_bytes("/health", OPEN) < MIB
    assert body_bytes("/health", OPEN.model_copy(update={"request_bytes": 2000})) == 2000


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/projects/3/train", "http://127.0.0.1:9090", 0),
        ("/projects/3/train", "", 403),
        ("/projects/3/train", "null", 403),
        ("/projects/3/train", "https://evil.example", 403),
        ("/projects/3/confirm/train", "http://127.0.0.1:9090", 415),
        ("/webhook", "http://127.0.0.1:9090", 415),
    ],
)
def test_forms_are_taken_by_the_pages_own_routes_and_with_an_origin(path: str, origin: str, status: int) -> None:
    raw = {b"host": b"127.0.0.1:9090", b"content-type": b"application/x-www-form-urlencoded"}
    refused = refusal("POST", path, raw | ({b"origin": origin.encode()} if origin else {}), OPEN)
    assert (refused[0] if refused else 0) == status
