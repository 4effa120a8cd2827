"""A click of a smart tool, from request to answer over HTTP, against a backend that encodes on every click.

Both are this service, with the same model, picture and clicks, asked in turns in one run; the other one may keep no
embedding, so it fetches, decodes and encodes the picture each time, as backends without a cache do (Label Studio's
example for SAM 2 is one). The picture comes from a local HTTP server. Times are the client's and so include HTTP and
JSON: an upper bound of the server's own. What the service adds is a click's time less what the model decoded in it.
SAM 2.1 Tiny has random weights, which serve for speed.
"""

from __future__ import annotations

import io
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.rows import Row, median_interval
from bench.served import served

WEB, CAMERA = (960, 1280), (3000, 4000)
"""(H, W) of a picture as they are on the web, and of one as cameras make them."""
WARM_CLICKS, COLD_CLICKS = 100, 10
P50_S, P95_S, RATIO, ADDED_MS = 0.060, 0.120, 0.1, 6.0
LARGE, LARGE_RATIO = "sam2.1_hiera_tiny", 0.05
DECODED = re.compile(r'usam_model_seconds_total\{.*part="decode"')
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="out" toName="img"><Label value="object"/></BrushLabels>
<KeyPointLabels name="kp" toName="img" smart="true"><Label value="object"/></KeyPointLabels></View>"""


def run() -> list[Row]:
    """Median and 95th percentile of a warm click, its median over that of a click that encodes, and what the service
    adds to decoding."""
    rows = [row for hw in (WEB, CAMERA) for row in compare("nano-m", hw)]
    return [*rows, *compare(LARGE, WEB, random_weights=True)]


def compare(
    model: str, hw: tuple[int, int], *, random_weights: bool = False, warm_clicks: int = WARM_CLICKS
) -> list[Row]:
    """The figures of one checkpoint and picture."""
    with ExitStack() as stack:
        address = stack.enter_context(_picture(hw))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common: dict[str, Any] = {
            "model": model,
            "allowed_hosts": (address.split("/")[2],),
            "random_weights": random_weights,
        }
        ours = stack.enter_context(served(folder / "ours", **common))
        other = stack.enter_context(served(folder / "other", cache_bytes=0, **common))
        client = stack.enter_context(httpx.Client(timeout=60, trust_env=False))
        rng = np.random.default_rng(0)
        for url in (ours, other):
            for _ in range(3):
                _click(client, url, address, hw, rng)
        warm: list[float] = []
        cold: list[float] = []
        added: list[float] = []
        for turn in range(warm_clicks):
            before = _decoded_s(client, ours)
            warm.append(_click(client, ours, address, hw, rng))
            added.append(1000 * (warm[-1] - (_decoded_s(client, ours) - before)))
            if turn % (warm_clicks // COLD_CLICKS) == 0:
                cold.append(_click(client, other, address, hw, rng))
    p50, p95 = (float(value) for value in np.percentile(warm, [50, 95]))
    low, high = median_interval(added)
    what = f"warm click, {model}, picture {hw[1]} x {hw[0]}"
    note = f"{warm_clicks} clicks, client's times over HTTP"
    if random_weights:
        note += ", random weights"
    quick = model != LARGE
    against = "this service without an embedding cache, which encodes on every click"
    turns = f"{p50:.3f} s against {np.median(cold):.3f} s, {warm_clicks} and {len(cold)} clicks in turns"
    ratio = p50 / float(np.median(cold))
    return [
        Row(f"{what}, median", p50, "s", target=f"<= {P50_S}" if quick else "", note=note),
        Row(f"{what}, 95th percentile", p95, "s", target=f"<= {P95_S}" if quick else "", note=note),
        Row(what, ratio, "ratio of median seconds", against, f"<= {RATIO if quick else LARGE_RATIO}", note=turns),
        Row(
            f"{what}, added to decoding, median",
            float(np.median(added)),
            "ms",
            "",
            f"<= {ADDED_MS:g}" if quick else "",
            note=f"95 % [{low:.1f}, {high:.1f}]; {note}, less the seconds in which the model decoded",
        ),
    ]


def _decoded_s(client: httpx.Client, url: str) -> float:
    """Seconds that the service has decoded for so far, as its metrics say."""
    text = client.get(f"{url}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if DECODED.match(line))


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
    with pictures_at(lambda path: body) as address:
        yield f"{address}/picture.jpg"


@contextmanager
def pictures_at(body_of: Callable[[str], bytes]) -> Iterator[str]:
    """The address of a local server that answers each path with the JPEG that `body_of` makes of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = body_of(self.path)
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
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
