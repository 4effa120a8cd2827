"""Both kinds of Label Studio token, behind one question: which header does a request need now?

A *legacy token* is sent as it is (`Authorization: Token ...`). A *personal access token* is a refresh token:
Label Studio answers 401 to it everywhere but at `/api/token/refresh`, which hands out an access token that
lives 300 s. An *access token* can be given too; it works until it expires and cannot be renewed.

The SDK's own `TokensClientExt` (2.1) does not fit: it loses the path prefix of Label Studio's address, takes an access
token for a refresh token, renews only after the expiry, and cannot drop a token after a 401.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from typing import Any

import httpx

from backend.errors import TokenError

RENEW_AT = 0.7
"""An access token is renewed once this share of its life is over, so that none expires on its way."""
LIFE_S = 300.0
"""Life of an access token that does not say its own, in seconds."""


class TokenSource:
    """Authorization headers for one Label Studio, renewed as needed. Safe to share between threads.

    `base_url` is Label Studio's address (with its path prefix, if it has one), `key` either kind of token; an
    empty key means that requests go without one. `client` is used for the exchange and is not closed here.
    """

    def __init__(self, base_url: str, key: str, client: httpx.Client) -> None:
        self.base_url = base_url.rstrip("/")
        self._key = key.strip()
        self._client = client
        self._lock = threading.Lock()
        self._access = ""
        self._renew_at = 0.0
        self.kind = token_kind(self._key)

    def __repr__(self) -> str:
        return f"TokenSource({self.base_url!r}, kind={self.kind!r})"

    def header(self) -> dict[str, str]:
        """The Authorization header as a dict, empty without a key.

        Asks Label Studio where the personal access token's access token is missing or old.
        Raises `TokenError` when Label Studio does not take the personal access token.
        """
        if self.kind == "none":
            return {}
        if self.kind == "legacy":
            return {"Authorization": f"Token {self._key}"}
        if self.kind == "access":
            return {"Authorization": f"Bearer {self._key}"}
        with self._lock:
            if not self._access or time.monotonic() >= self._renew_at:
                self._renew()
            return {"Authorization": f"Bearer {self._access}"}

    def forget(self) -> bool:
        """Drop the access token, after a 401. True where a new one can be had: try again."""
        with self._lock:
            self._access = ""
        return self.kind == "personal"

    def _renew(self) -> None:
        url = f"{self.base_url}/api/token/refresh"
        asked = time.monotonic()
        try:
            answer = self._client.post(url, json={"refresh": self._key}, follow_redirects=False)
        except httpx.HTTPError as error:
            raise TokenError(
                f"Label Studio to exchange the personal access token at {url}",
                type(error).__name__,
                "check LABEL_STUDIO_URL and that Label Studio runs",
            ) from error
        access = _json_object(answer).get("access") if answer.status_code == 200 else None
        if not isinstance(access, str) or not access:
            raise TokenError(
                f"an access token from {url}",
                f"HTTP {answer.status_code}",
                "make a new personal access token in Label Studio and set LABEL_STUDIO_API_KEY to it",
                status=answer.status_code,
            )
        claims = _claims(access) or {}
        life = LIFE_S
        if isinstance(claims.get("exp"), int | float) and isinstance(claims.get("iat"), int | float):
            life = max(1.0, float(claims["exp"]) - float(claims["iat"]))
        self._access, self._renew_at = access, asked + RENEW_AT * life


def token_kind(key: str) -> str:
    """`none`, `legacy`, `personal` (a refresh token) or `access`, told from the token's own form."""
    if not key:
        return "none"
    claims = _claims(key)
    if claims is None:
        return "legacy"
    return "access" if claims.get("token_type") == "access" else "personal"


def _claims(token: str) -> dict[str, Any] | None:
    """The payload of a JSON web token, unverified (Label Studio verifies it); None for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return payload if isinstance(payload, dict) else None


def _json_object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
