"""Who may ask, and how much: a layer of ASGI around the routes.

Requests that only a foreign web page would send are refused first (`request_rules`). Basic and bearer credentials are
compared in constant time. `/health` is open, because container and load-balancer checks carry no password, and tells
nothing. Bodies are cut off at the route's cap while they arrive, whatever their header says.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.metrics.service import Metrics
from backend.settings import Settings
from backend.web.request_rules import HEADERS, body_bytes, refusal

OPEN_PATHS = frozenset({"/health"})


class _TooLarge(Exception):
    """The body went beyond the cap."""


class Access:
    """ASGI middleware: authentication, body cap, and a count of every answer by route."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, routes: Iterable[str]) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):  # no redirect, which would name the `Host` it got
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message.get("headers", ())}
                more = [(name, value) for name, value in HEADERS.items() if name not in given]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        cap = body_bytes(scope["path"], self._settings)
        try:
            refused = refusal(scope["method"], scope["path"], headers, self._settings)
            if refused is not None:
                await _answer(counted, *refused, [(b"connection", b"close")])
                return
            guarded = self._settings.auth_on and scope["path"] not in OPEN_PATHS
            if guarded and not self._allowed(headers.get(b"authorization", b"")):
                challenge = (b"www-authenticate", b'Basic realm="usam", charset="UTF-8"')
                await _answer(counted, 401, "credentials are missing or wrong", [challenge])
                return
            await self._app(scope, _capped(headers, receive, cap), counted)
        except _TooLarge:
            if not status:
                setting = " (USAM_REQUEST_BYTES)" if cap == self._settings.request_bytes else ""
                text = f"a body of at most {cap} bytes is taken here{setting}"
                await _answer(counted, 413, text, [(b"connection", b"close")])
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

    def _allowed(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        settings = self._settings
        if scheme.lower() == b"bearer":
            wanted = settings.auth_token.get_secret_value().encode()
            return bool(wanted) and hmac.compare_digest(given.strip(), wanted)
        if scheme.lower() != b"basic":
            return False
        password = settings.auth_password.get_secret_value().encode()
        try:
            pair = base64.b64decode(given.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        # browsers send UTF-8, Python's requests, and so Label Studio, Latin-1
        users = {settings.auth_user.encode(), settings.auth_user.encode("latin-1", "replace")}
        return bool(password) and any([hmac.compare_digest(pair, user + b":" + password) for user in users])


def _capped(headers: dict[bytes, bytes], receive: Receive, cap: int) -> Receive:
    seen = 0
    declared = headers.get(b"content-length", b"0")

    async def limited() -> Message:
        nonlocal seen
        if declared.isdigit() and (len(declared) > 18 or int(declared) > cap):
            raise _TooLarge
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > cap:
            raise _TooLarge
        return message

    return limited


async def _answer(send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"error": error}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
