"""Who may ask, and how much: a layer of ASGI around the routes.

Basic and bearer credentials are compared in constant time. `/health` is open, because container and
load-balancer checks carry no password, and tells nothing. Bodies are cut off at the cap while they arrive,
whatever their header says.
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
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            guarded = self._settings.auth_on and scope["path"] not in OPEN_PATHS
            if guarded and not self._allowed(headers.get(b"authorization", b"")):
                challenge = (b"www-authenticate", b'Basic realm="usam", charset="UTF-8"')
                await _answer(counted, 401, "credentials are missing or wrong", [challenge])
                return
            await self._app(scope, self._capped(headers, receive), counted)
        except _TooLarge:
            if not status:
                text = f"a body of at most {self._settings.request_bytes} bytes is taken (USAM_REQUEST_BYTES)"
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
        return bool(password) and hmac.compare_digest(pair, settings.auth_user.encode() + b":" + password)

    def _capped(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        cap, seen = self._settings.request_bytes, 0
        declared = headers.get(b"content-length", b"0")

        async def limited() -> Message:
            nonlocal seen
            if declared.isdigit() and int(declared) > cap:
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
