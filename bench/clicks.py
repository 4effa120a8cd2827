"""A click of a smart tool, from request to answer over HTTP, against a backend that encodes on every click.

Both are this service, with the same model, picture and clicks, asked in turns in one run; the other one may keep no
embedding, so it fetches, decodes and encodes the picture each time, as backends without a cache do. The picture comes
from a local HTTP server. Times are the client's and so include HTTP and JSON: an upper bound of the server's own.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.rows import Row
from bench.served import served

MODEL = "nano-m"
PICTURES = ((960, 1280), (3000, 4000))
"""(H, W)"""
WARM_CLICKS, COLD_CLICKS = 100, 10
P50_S, P95_S, RATIO = 0.060, 0.120, 0.1
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="out" toName="img"><Label value="object"/></BrushLabels>
<KeyPointLabels name="kp" toName="img" smart="true"><Label value="object"/></KeyPointLabels></View>"""


def run() -> list[Row]:
    """Median and 95th percentile of a warm click, and its median over that of a click that encodes, for a picture
    as they are on the web and one as cameras make them."""
    return [row for hw in PICTURES for row in _compare(hw)]


def _compare(hw: tuple[int, int]) -> list[Row]:
    with ExitStack() as stack:
        address = stack.enter_context(_picture(hw))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common: dict[str, Any] = {"model": MODEL, "allowed_hosts": (address.split("/")[2],)}
        ours = stack.enter_context(served(folder / "ours", **common))
        other = stack.enter_context(served(folder / "other", cache_bytes=0, **common))
        client = stack.enter_context(httpx.Client(timeout=60, trust_env=False))
        rng = np.random.default_rng(0)
        for url in (ours, other):
            for _ in range(3):
                _click(client, url, address, hw, rng)
        warm: list[float] = []
        cold: list[float] = []
        for turn in range(WARM_CLICKS):
            warm.append(_click(client, ours, address, hw, rng))
            if turn % (WARM_CLICKS // COLD_CLICKS) == 0:
                cold.append(_click(client, other, address, hw, rng))
    p50, p95 = (float(value) for value in np.percentile(warm, [50, 95]))
    what = f"warm click, {MODEL}, picture {hw[1]} x {hw[0]}"
    note = f"{WARM_CLICKS} clicks, client's times over HTTP"
    against = "this service without an embedding cache, which encodes on every click"
    turns = f"{p50:.3f} s against {np.median(cold):.3f} s, {WARM_CLICKS} and {len(cold)} clicks in turns"
    ratio = p50 / float(np.median(cold))
    return [
        Row(figure=f"{what}, median", value=p50, unit="s", against="", target=f"<= {P50_S}", note=note),
        Row(figure=f"{what}, 95th percentile", value=p95, unit="s", against="", target=f"<= {P95_S}", note=note),
        Row(
            figure=what, value=ratio, unit="ratio of median seconds", against=against, target=f"<= {RATIO}", note=turns
        ),
    ]


def _click(client: httpx.Client, url: str, image: str, hw: tuple[int, int], rng: np.random.Generator) -> float:
    x, y = rng.uniform(10, 90, 2)
    region = {
        "original_width": hw[1],
        "original_height": hw[0],
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": ["object"]},
        "is_positive": True,
        "id": "click",
        "from_name": "kp",
        "to_name": "img",
        "type": "keypointlabels",
    }
    body = {
        "tasks": [{"id": 1, "data": {"image": image}}],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": {"result": [region]}},
    }
    started = time.perf_counter()
    answer = client.post(f"{url}/predict", json=body)
    seconds = time.perf_counter() - started
    item = answer.json()["results"][0]
    if item["reason"] or not item["result"]:
        raise AssertionError(f"no mask: {item['reason']}")
    return seconds


@contextmanager
def _picture(hw: tuple[int, int]) -> Iterator[str]:
    """The local address of a photograph of (H, W)."""
    from PIL import Image
    from skimage import data

    out = io.BytesIO()
    Image.fromarray(data.coffee()).resize((hw[1], hw[0]), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    body = out.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/picture.jpg"
    finally:
        server.shutdown()
        server.server_close()
