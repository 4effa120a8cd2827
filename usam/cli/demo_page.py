"""The page of `usam demo`: a webcam or a video file in the browser, an object in it, and how sure the model is of it.

The page sends one frame at a time and the next only when it has the answer, so that frames are dropped rather than
queued. Everything it loads comes from here, and only pages of this address may ask.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import webbrowser
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from usam.errors import ImageError, PromptError, UsamError

if TYPE_CHECKING:
    from usam.predictor.image import PatchedImagePredictor
    from usam.predictor.tracking import ObjectTracker

HOST = "127.0.0.1"
MAX_FRAME_BYTES, MAX_FRAME_PIXELS = 4 * 2**20, 4_000_000
MOST_PAGES = 8
"""Pages whose objects are remembered."""
SILENT_S = 30.0
"""How long a connection may say nothing."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'"  # noqa: E501
PAGES = {
    "/": ("demo.html", "text/html; charset=utf-8"),
    "/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
    "/demo.css": ("demo.css", "text/css; charset=utf-8"),
}


class Click(NamedTuple):
    """A click at x, y, shares of the frame's sides in 0..1. `label` None begins with another object; 1 says that this
    belongs to the object that is followed, 0 that it does not."""

    x: float
    y: float
    label: int | None = None


class Streams:
    """One object in the frames of each page that is open. Safe to share between threads; one frame at a time."""

    def __init__(self, predictor: PatchedImagePredictor) -> None:
        self._predictor, self._lock = predictor, threading.Lock()
        self._trackers: dict[str, ObjectTracker] = {}

    def _tracker_of(self, page: str) -> ObjectTracker:
        from usam.predictor.memory_tracking import tracker_for

        tracker = self._trackers.pop(page, None) or tracker_for(self._predictor)
        self._trackers[page] = tracker  # the page that asked last is the last to be forgotten
        while len(self._trackers) > MOST_PAGES:
            del self._trackers[next(iter(self._trackers))]
        return tracker

    def answer(self, frame: bytes, click: Click | None, page: str = "") -> dict[str, Any]:
        """What is seen on a frame, a JPEG, of a page; where `click` was clicked in it, if anywhere.

        Raises `ImageError` where it is no picture and where nothing was begun, `PromptError` for a point outside.
        """
        import numpy as np

        from usam.cli.demo import facts_of
        from usam.images import read_image
        from usam.prompts import Prompt

        image = read_image(frame, MAX_FRAME_PIXELS, MAX_FRAME_BYTES)
        height, width = image.shape[:2]
        prompt, begins = None, click is not None and click.label is None
        if click is not None:
            place = np.array([[min(click.x * width, width - 1), min(click.y * height, height - 1)]], np.float32)
            prompt = Prompt(place, np.array([1 if begins else click.label], np.int32))
        with self._lock:
            tracker = self._tracker_of(page)
            if prompt is not None and begins:
                tracked = tracker.begin(image, prompt)
            else:
                tracked = tracker.follow(image)
                if prompt is not None:
                    tracked = tracker.correct(prompt)
        return {**facts_of(0, 0.0, tracked), "mask": mask_picture(tracked.mask)}


def mask_picture(mask: Any) -> str:
    """A mask (H, W) as the address of a picture that tints the object and leaves the rest clear."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = (0, 114, 255, 120)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def serve(
    model: str, device: str, heads: str | None, port: int, open_browser: bool, say: Callable[[str], object]
) -> None:
    """Serve the page until Ctrl-C. Raises `ImageError` where the port is taken."""
    from usam.cli.demo import load_for_streams

    server = server_of(load_for_streams(model, device, heads), port)
    address = f"http://{HOST}:{server.server_address[1]}/"
    say(f"doubt in a video stream: {address} (Ctrl-C ends it; pictures stay on this machine)")
    if open_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("ended")
    finally:
        server.server_close()


def server_of(predictor: PatchedImagePredictor, port: int = 0) -> ThreadingHTTPServer:
    """The page's server, bound to this machine alone."""

    class Handler(PageHandler):
        pass

    Handler.streams = Streams(predictor)
    try:
        return PageServer((HOST, port), Handler)
    except OSError as error:
        raise ImageError("a free port", f"{port}: {error.strerror}", "choose another with --port") from error


class PageServer(ThreadingHTTPServer):
    """A thread for each connection. A page that is closed meanwhile is no error."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what went wrong, unless it is that somebody has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    """Answers with the page's files and with what is seen on frames."""

    streams: Streams
    protocol_version = "HTTP/1.1"
    timeout = SILENT_S

    def do_GET(self) -> None:
        """A file of the page."""
        name, kind = PAGES.get(urlsplit(self.path).path, ("", ""))
        if not self._is_ours() or not name:
            told = f"not found: open http://{HOST}:{self.server.server_address[1]}/"  # type: ignore[index]
            self._send(HTTPStatus.NOT_FOUND, told.encode(), "text/plain")
            return
        self._send(HTTPStatus.OK, page_file(name), kind)

    def do_POST(self) -> None:
        """A frame."""
        parts = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 10 else -1
        if parts.path != "/frame" or not self._is_ours() or not 0 < size <= MAX_FRAME_BYTES:
            self.close_connection = True
            self._tell(HTTPStatus.BAD_REQUEST, {"error": f"expected a frame of at most {MAX_FRAME_BYTES} bytes"})
            return
        frame = self.rfile.read(size)
        try:
            page = parse_qs(parts.query).get("page", [""])[0][:64]
            status, told = HTTPStatus.OK, self.streams.answer(frame, click_of(parts.query), page)
        except UsamError as error:
            status, told = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        except Exception as error:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            told = {"error": f"an error inside usam on this frame, {type(error).__name__}: {str(error)[:200]}"}
        self._tell(status, told)

    def _is_ours(self) -> bool:
        """Whether the request names this address, and comes from its page if it says from where."""
        ours = f"{HOST}:{self.server.server_address[1]}"  # type: ignore[index]
        return self.headers.get("Host") == ours and self.headers.get("Origin", f"http://{ours}") == f"http://{ours}"

    def _tell(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def click_of(query: str) -> Click | None:
    """The click that a query names, None where it names none. Raises `PromptError` for others.

    >>> click_of("x=0.5&y=0.25"), click_of("x=0.5&y=0.25&label=0"), click_of("")
    (Click(x=0.5, y=0.25, label=None), Click(x=0.5, y=0.25, label=0), None)
    """
    values = parse_qs(query)
    if "x" not in values and "y" not in values:
        return None
    label = values.get("label", [""])[0]
    try:
        x, y = float(values["x"][0]), float(values["y"][0])
    except (KeyError, ValueError):
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1) or label not in ("", "0", "1"):
        raise PromptError("a point x, y in 0..1, and a label 0 or 1 if any", query[:80])
    return Click(x, y, int(label) if label else None)


@cache
def page_file(name: str) -> bytes:
    """One of the files of the page."""
    return files("usam.cli").joinpath("page", name).read_bytes()
