"""Images of tasks: fetched from allowed places only, within caps, and decoded upright.

A task's image value is what somebody imported: it may point anywhere. The rules, for the first address and
for each redirect alike:

- the configured Label Studio (same scheme, host and port, data paths only) is asked with its token, which
  goes nowhere else;
- listed hosts are asked without a token and may have private addresses; with `*` listed, so may be any host
  whose addresses are all public;
- `s3://`, `gs://` and `azure-blob://` of listed buckets go through Label Studio's presign address, and from there to a
  listed host or one whose addresses are all public;
- `data:` URIs are decoded here; everything else is refused.

A host that must be public is resolved once, judged, and connected to at that very address, so that a second
look-up cannot give another one. Proxies from the environment are not used: behind one, no address could be
judged.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import posixpath
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urljoin, urlsplit

import httpx
import numpy as np
import numpy.typing as npt

from backend.errors import FetchError
from backend.image_decoding import decode_image
from backend.label_studio.auth import TokenSource
from backend.settings import BUCKET_SCHEMES, Settings

UInt8Image = npt.NDArray[np.uint8]
Policy = Literal["label-studio", "listed", "public"]

MAX_REDIRECTS = 5
READ_SECONDS = 5.0
"""Longest silence of a server that is sending."""
DATA_PATHS = ("/data/", "/storage-data/", "/tasks/", "/static/", "/static-samples/")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IMAGE_STARTS_HTML = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.I)


@dataclass(frozen=True)
class _Hop:
    """One allowed request."""

    url: str
    policy: Policy
    address: str = ""
    """Address to connect to, where it was judged."""


@cache
def _tls() -> ssl.SSLContext:
    """What this machine trusts, read once a process: it takes 20 ms."""
    return ssl.create_default_context()


class ImageFetcher:
    """Fetches and decodes the images of tasks. Safe to share between threads; blocks its caller.

    `kind` is what its errors call a file.
    """

    def __init__(self, settings: Settings, kind: str = "an image") -> None:
        self._settings, self._kind = settings, kind
        self._base = settings.label_studio_url
        self._aliases = {_origin(urlsplit(url)) for url in settings.label_studio_aliases}
        self._token_client = httpx.Client(timeout=READ_SECONDS, trust_env=False, verify=_tls())
        self._tokens = TokenSource(self._base, settings.label_studio_api_key.get_secret_value(), self._token_client)

    def close(self) -> None:
        """Close what is open."""
        self._token_client.close()

    def fetch(self, value: str, task_id: int | None = None) -> UInt8Image:
        """The image (H, W, 3) RGB upright at a task's image value.

        Raises `FetchError` where it may not or could not be fetched, `ImageError` where it is not an image.
        """
        return self.decode(self.fetch_bytes(value, task_id))

    def decode(self, data: bytes) -> UInt8Image:
        """Decode within the pixel cap. Raises `ImageError`."""
        return decode_image(data, self._settings)

    def fetch_bytes(self, value: str, task_id: int | None = None) -> bytes:
        """The file at a task's image value; `task_id` is needed for buckets. Raises `FetchError`."""
        if value[:5].lower() == "data:":
            return self._from_data_uri(value)
        scheme = value.partition("://")[0].lower()
        if scheme in BUCKET_SCHEMES:
            return self._get(self._presign_url(value, task_id), presigned=True)
        value = _with_spaces_encoded(value)
        scheme = urlsplit_strictly(value).scheme
        if not scheme and value.startswith("/") and not value.startswith("//"):
            if not self._base:
                raise FetchError(
                    "LABEL_STUDIO_URL, to resolve the path of an upload",
                    _short(value),
                    "set LABEL_STUDIO_URL",
                )
            return self._get(self._base + self._without_prefix(value), presigned=False)
        return self._get(self._without_alias(value), presigned=False)

    def _without_prefix(self, path: str) -> str:
        """A path of Label Studio from its own root: uploads carry the prefix that it is served under, others do not."""
        prefix = urlsplit(self._base).path
        return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path

    def _without_alias(self, url: str) -> str:
        parts = urlsplit_strictly(url)
        if self._base and _origin(parts) in self._aliases:
            tail = parts.path + (f"?{parts.query}" if parts.query else "")
            return self._base + self._without_prefix(tail)
        return url

    def _presign_url(self, value: str, task_id: int | None) -> str:
        scheme, _, path = value.partition("://")  # a key may hold spaces, `?`, `#` and `%`: it is no address
        bucket = f"{scheme.lower()}://{path.partition('/')[0]}"
        if bucket not in self._settings.allowed_buckets:
            raise FetchError(
                "an image in a listed bucket",
                bucket,
                f"add {bucket} to USAM_ALLOWED_BUCKETS if it is to be read",
            )
        if not self._base or task_id is None:
            raise FetchError(
                "a task of a configured Label Studio to presign for", _short(value), "set LABEL_STUDIO_URL"
            )
        try:
            uri = base64.urlsafe_b64encode(value.encode()).decode()
        except UnicodeEncodeError as error:
            raise FetchError("a key in Unicode", _short(value), "import the task again") from error
        return f"{self._base}/tasks/{int(task_id)}/presign/?fileuri={uri}"

    def _from_data_uri(self, value: str) -> bytes:
        cap = self._settings.fetch_bytes
        head, comma, body = value.partition(",")
        if not comma:
            raise FetchError("a data: URI with a comma before its data", _short(value), "import the task again")
        if len(body) > 3 * cap:
            raise FetchError(f"at most {cap} bytes", f"{len(body)} characters of data: URI", "raise USAM_FETCH_BYTES")
        if head.lower().endswith(";base64"):
            try:
                data = base64.b64decode(unquote(body), validate=False)
            except (binascii.Error, ValueError) as error:
                raise FetchError("base64 in a data: URI", str(error), "import the task again") from error
        else:
            data = unquote_to_bytes(body)
        if len(data) > cap:
            raise FetchError(f"at most {cap} bytes", f"{len(data)}", "raise USAM_FETCH_BYTES")
        return data

    def _judge(self, url: str, *, presigned: bool) -> _Hop:
        """Decide whether and how `url` may be asked. Raises `FetchError`."""
        parts = urlsplit_strictly(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise FetchError(
                "an http(s), s3, gs or data: address, or a path of Label Studio",
                _short(url),
                "correct the task",
            )
        if parts.username is not None or parts.password is not None:
            raise FetchError("an address without user and password", f"one for {host}", "correct the task")
        if self._base and _origin(parts) == _origin(urlsplit(self._base)):
            self._check_path(parts)
            return _Hop(url, "label-studio")
        port = _port(parts)
        if host in self._settings.allowed_hosts or _with_port(host, port) in self._settings.allowed_hosts:
            return _Hop(url, "listed")
        if presigned or "*" in self._settings.allowed_hosts:
            return _Hop(url, "public", _public_address(host, port))
        raise FetchError(
            "an image on Label Studio or on a listed host",
            f"one on {_with_port(host, port)}",
            f"add {host} to USAM_ALLOWED_HOSTS if it is to be trusted",
        )

    def _check_path(self, parts: SplitResult) -> None:
        path = posixpath.normpath(unquote(parts.path)) + ("/" if parts.path.endswith("/") else "")
        if not path.startswith(tuple(urlsplit(self._base).path + prefix for prefix in DATA_PATHS)):
            raise FetchError("a data path of Label Studio (/data/...)", _short(parts.path), "correct the task")

    def _get(self, url: str, *, presigned: bool) -> bytes:
        deadline = time.monotonic() + self._settings.fetch_seconds
        renewed = False
        for _ in range(MAX_REDIRECTS + 1):
            hop = self._judge(url, presigned=presigned)
            with self._open(hop, deadline) as response:
                if response.is_redirect:
                    url = _redirected(url, response.headers.get("location", ""))
                    continue
                if response.status_code == 401 and hop.policy == "label-studio" and not renewed:
                    renewed = self._tokens.forget()
                    if renewed:
                        continue
                return self._body(response, hop, deadline)
        raise FetchError(f"at most {MAX_REDIRECTS} redirects", "more", "import the image's final address")

    @contextmanager
    def _open(self, hop: _Hop, deadline: float) -> Iterator[httpx.Response]:
        """The response to one request; its connection is cut at the deadline, even if the server drips."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._too_slow(hop.url)
        headers = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "usam-backend"}
        url, extensions = hop.url, {}
        if hop.policy == "label-studio":
            headers |= self._tokens.header()
        if hop.address:
            parts = urlsplit(hop.url)
            host = parts.hostname or ""
            headers["Host"] = parts.netloc
            url = parts._replace(netloc=_with_port(hop.address, _port(parts))).geturl()
            extensions = {"sni_hostname": host}
        wait = min(READ_SECONDS, left)
        client = httpx.Client(timeout=wait, trust_env=False, verify=_tls(), follow_redirects=False)
        cut = threading.Timer(left, client.close)
        cut.daemon = True
        cut.start()
        try:
            request = client.build_request("GET", url, headers=headers, extensions=extensions)
            response = client.send(request, stream=True)
            try:
                yield response
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
            if time.monotonic() >= deadline - 0.05 or isinstance(error, httpx.TimeoutException):
                raise self._too_slow(hop.url) from error
            raise FetchError(
                f"an answer from {_short(hop.url)}",
                f"{type(error).__name__}: {error}",
                "check that it can be reached",
            ) from error
        finally:
            cut.cancel()
            client.close()

    def _body(self, response: httpx.Response, hop: _Hop, deadline: float) -> bytes:
        cap = self._settings.fetch_bytes
        where = _short(hop.url)
        if response.status_code != 200:
            raise FetchError(
                f"{self._kind} at {where}",
                f"HTTP {response.status_code}",
                "check the address and Label Studio's token",
            )
        if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise FetchError(f"{self._kind} as it is at {where}", "a compressed answer", "turn that off at the server")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise FetchError(f"{self._kind} at {where}", "a web page", "log-in page? check LABEL_STUDIO_API_KEY")
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > cap:
            raise self._too_large(where, length)
        chunks, size = [], 0
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > cap:
                raise self._too_large(where, f"more than {size}")
            if time.monotonic() > deadline:
                raise self._too_slow(hop.url)
            chunks.append(chunk)
        data = b"".join(chunks)
        if _IMAGE_STARTS_HTML.match(data[:100]):
            raise FetchError(f"{self._kind} at {where}", "a web page", "log-in page? check LABEL_STUDIO_API_KEY")
        return data

    def _too_slow(self, url: str) -> FetchError:
        return FetchError(
            f"{self._kind} from {_short(url)} within {self._settings.fetch_seconds:g} s",
            "none",
            "check the server, or raise USAM_FETCH_SECONDS",
        )

    def _too_large(self, where: str, size: str) -> FetchError:
        return FetchError(
            f"at most {self._settings.fetch_bytes} bytes at {where}",
            size,
            "shrink it or raise USAM_FETCH_BYTES",
        )


def _with_spaces_encoded(url: str) -> str:
    """Spaces of path and query as browsers send them: Label Studio's own addresses have them as they are in names."""
    start = url.find("/", url.find("://") + 3) if "://" in url else 0
    return url if start < 0 else url[:start] + url[start:].replace(" ", "%20")


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Raises `FetchError`."""
    try:
        return urljoin(url, _with_spaces_encoded(location))
    except ValueError as error:
        raise FetchError(f"a redirect from {_short(url)} to an address", str(error), "correct the task") from error


def urlsplit_strictly(url: str) -> SplitResult:
    """Split an address that no two programs could read differently. Raises `FetchError`."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise FetchError("an address without spaces, backslashes and control characters", _short(url), "encode it")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise FetchError("an address", str(error), "correct the task") from error
    return parts


def _public_address(host: str, port: int) -> str:
    """One address of `host`, all of whose addresses are public. Raises `FetchError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"an address of {host}", str(error), "check the name") from error
    addresses = [cast(str, entry[4][0]) for entry in found]
    for address in addresses:
        if not is_public(address):
            raise FetchError(
                f"a public address of {host}",
                "a private or reserved one",
                f"add {host} to USAM_ALLOWED_HOSTS if it is to be trusted",
            )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from everywhere, also when it wraps another one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme.lower(), (parts.hostname or "").lower(), _port(parts)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _short(url: str) -> str:
    """An address fit for a message: no query (it may carry a signature), not endless."""
    bare = url.partition("?")[0].rpartition("@")[2] if "@" in url.partition("?")[0] else url.partition("?")[0]
    return repr(bare if len(bare) <= 120 else bare[:120] + "...")
