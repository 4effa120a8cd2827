"""Addresses: whether one can be used, stays on this machine, and how it is shown without its secrets."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

PROCESS_HEADER = "x-usam-process"
"""Of `/health`: the number of the process that answers, by which a stack knows its own service."""
_PLAIN_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<user>[^@/?#\s]*@)?"
    r"(?P<rest>(\[[0-9a-f:.]+\]|[a-z0-9][a-z0-9._-]*)(:\d{1,5})?(/[\w.-]*)*)",
    re.I,
)


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def without_password(url: str) -> str:
    """The URL with user and password, if it has any, as `***`.

    An address whose parts cannot be told apart for certain (a query, a password with `@`, `/`, `?` or `#` as it is)
    is shown by its scheme only.

    >>> without_password("redis://:pw@host:6379/0"), without_password("redis://host/0?password=pw")
    ('redis://***@host:6379/0', 'redis://***')
    """
    if not url or (url.startswith("sqlite:///") and not re.search(r"[?#@]", url)):
        return url
    plain = _PLAIN_URL.fullmatch(url)
    if plain is None:
        scheme = re.match(r"[a-z][a-z0-9+.-]*://", url, re.I)
        return (scheme[0] if scheme else "") + "***"
    return plain["scheme"] + ("***@" if plain["user"] else "") + plain["rest"]


def http_origin(url: str, *, path: bool = False) -> str:
    """An address of a server, without a slash at its end; with a `path` where it may have one. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # .port raises `ValueError`
        raise ValueError("an http:// or https:// address is needed")
    if parts.username or parts.password:
        raise ValueError("the address must not carry a user or password; LABEL_STUDIO_API_KEY is for that")
    if parts.query or parts.fragment or (not path and parts.path.strip("/")):
        raise ValueError("an address without path, query or fragment is needed")
    return url.rstrip("/")
