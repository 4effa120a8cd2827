"""Which requests are looked at, whoever sends them: what a web page in somebody's browser must not be able to do.

Without a password we trust whoever reaches us on this machine, and so does every page that its browser shows. Such a
page can send us requests in three ways, and each leaves a trace: from its own origin (`Origin` tells it), as a form
(whose content type is no JSON), or under a name of its own that it has led to this machine's address (`Host` tells it).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from backend.addresses import is_loopback
from backend.settings import Settings

MIB = 2**20
OTHER_BYTES = MIB // 16
BODY_BYTES = {"/setup": 4 * MIB}
"""Largest bodies by route. `/predict` and `/webhook` carry masks, so theirs is a setting; others carry nothing."""
FORM_ROUTES = re.compile(r"/projects/[^/]+/[^/]+")
"""What our own pages send forms to; each form carries a token besides (`dashboard.actions`)."""
API_ROUTES = "/api/"
"""Begin of routes that do what forms do, for programs: JSON is asked for, which no form of another page can send."""
MASK_ROUTES = frozenset({"/predict", "/webhook"})
PRIVATE_NAMES = (".internal", ".local", ".localhost", ".lan", ".home.arpa")
"""Ends of names that no public name server knows, so that no stranger can lead one to us."""
HEADERS = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
"""Of every answer, unless the route sends its own."""


def body_bytes(path: str, settings: Settings) -> int:
    """The largest body that a route takes, in bytes."""
    if path in MASK_ROUTES:
        return settings.request_bytes
    return min(BODY_BYTES.get(path, OTHER_BYTES), settings.request_bytes)


def refusal(method: str, path: str, headers: Mapping[bytes, bytes], settings: Settings) -> tuple[int, str] | None:
    """Status and sentence for a request that is not looked at; None for one that is.

    `headers` by their names in small letters. `/health` is answered to all: checks send what they like, and it
    tells nothing.
    """
    if path == "/health" and method in ("GET", "HEAD"):
        return None
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_known_host(host, settings):
        return 421, "this name is not one of the service's: list it in USAM_HOSTS if a proxy or another machine uses it"
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not _same_origin(origin, host):
        return 403, "requests of other web pages are refused"
    if method == "POST" and FORM_ROUTES.fullmatch(path):
        return None if origin else (403, "a form is taken from a page of this service alone, which says its origin")
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    strict = bool(kind or origin) or path.startswith(API_ROUTES)
    if method == "POST" and strict and kind != b"application/json":
        return 415, "a body of application/json is expected"
    return None


def is_known_host(host: str, settings: Settings) -> bool:
    """Whether a `Host` header, `name` or `name:port`, is one that the service has.

    Always this machine's loopback names, the address listened on, and what USAM_HOSTS lists. With a password also
    bare addresses and names that are private for certain: those of containers and local networks.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower().rstrip(".")
    except ValueError:
        return False
    if not name or any(sign in host for sign in "/@?#\\ "):
        return False
    listed = settings.hosts
    if is_loopback(name) or name == "host.docker.internal" or name in listed or host.lower() in listed:
        return True
    if name == settings.host.strip("[]").lower():
        return True
    if not settings.auth_on:
        return False
    return _is_address(name) or "." not in name or name.endswith(PRIVATE_NAMES) or name in _own_names()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _own_names() -> frozenset[str]:
    return frozenset({socket.gethostname().lower()})


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
