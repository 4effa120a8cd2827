"""A real HTTP server on this machine that can cut, lie and fail as real ones do."""

from __future__ import annotations

import http.server
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

CONTENT = bytes(range(256)) * 2000


@dataclass
class Site:
    """What the server does: the next answers are cut after `cuts` bytes each, the rest are whole.

    `pages` are served at their paths, `content` everywhere else.
    """

    content: bytes = CONTENT
    pages: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    announced: int | None = None
    with_length: bool = True
    status: int | None = None
    pause: float = 0.0
    requests: list[str | None] = field(default_factory=list)
    address: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as `site` says."""

    site: Site

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Answer as the site says."""
        site = self.site
        wanted = self.headers.get("Range")
        site.requests.append(wanted)
        if site.status is not None:
            self.send_error(site.status)
            return
        content = site.pages.get(self.path, site.content)
        start, size = 0, len(content)
        if wanted and site.ranges:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match
            start = int(match[1])
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        if site.with_length:
            self.send_header("Content-Length", str(size - start if site.announced is None else site.announced))
        self.end_headers()
        stop = size if not site.cuts else start + site.cuts.pop(0)
        for position in range(start, stop, 100_000):
            self.wfile.write(content[position : min(stop, position + 100_000)])
            time.sleep(site.pause)


class Server(http.server.ThreadingHTTPServer):
    """A client that hangs up, as some tests want, is no error."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Report everything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on a free port of this machine."""
    site = Site()
    handler = type("SiteHandler", (Handler,), {"site": site})
    with Server(("127.0.0.1", 0), handler) as server:
        site.address = f"http://127.0.0.1:{server.server_address[1]}/weights.pt"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield site
        server.shutdown()
        thread.join()
