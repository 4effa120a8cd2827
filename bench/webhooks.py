"""Webhook events that arrive fifty at a time, with the engine at rest and at work.

Each burst opens its requests together on kept connections; a request's time is from its first byte sent to its last
byte received. The events are of the size that Label Studio sends for an annotation. After the last burst every event
must be in the store.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

from bench.rows import Row
from bench.served import served

CONCURRENT, BURSTS = 50, 20
TARGET_S = 0.1
PROJECT = 3
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="out" toName="img"><Label value="object"/></BrushLabels></View>"""


def run() -> list[Row]:
    """99th percentile of the answer to a webhook event, engine at rest and while it works on a batch."""
    rows = []
    for busy in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with served(folder, with_store=True, model="nano-m", wait_seconds=600) as url:
                _connect(folder)
                seconds = _measure(url, busy)
                stored = _stored(folder, CONCURRENT * BURSTS)
        state = "while the engine works on a batch" if busy else "engine at rest"
        rows.append(
            Row(
                figure=f"webhook answer, 99th percentile, {CONCURRENT} concurrent, {state}",
                value=float(np.percentile(seconds, 99)),
                unit="s",
                against="-",
                target=f"<= {TARGET_S}",
                note=f"{len(seconds)} events, median {np.median(seconds):.4f} s, all {stored} stored",
            )
        )
    return rows


def _connect(folder: Path) -> None:
    from backend.store import Store

    store = Store(f"sqlite:///{folder / 'usam.db'}")
    store.join(PROJECT)
    store.close()


def _measure(url: str, busy: bool) -> list[float]:
    stop = threading.Event()
    worker = threading.Thread(target=_keep_busy, args=(url, stop), daemon=True)
    if busy:
        worker.start()
        time.sleep(1.0)
    try:
        return asyncio.run(_bursts(url))
    finally:
        stop.set()
        if busy:
            worker.join(120)


async def _bursts(url: str) -> list[float]:
    parts = urlsplit(url)
    lines = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(CONCURRENT)]
    seconds: list[float] = []
    for burst in range(BURSTS):
        requests = [_request(parts.netloc, burst * CONCURRENT + place) for place in range(CONCURRENT)]
        seconds += await asyncio.gather(*(_send(*line, one) for line, one in zip(lines, requests, strict=True)))
        await asyncio.sleep(0.05)
    for _, writer in lines:
        writer.close()
    return seconds


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    started = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200"):
        raise AssertionError(head.decode())
    return time.perf_counter() - started


def _request(host: str, number: int) -> bytes:
    event = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": number, "result": [{"value": {"rle": list(range(250)) * 4}}]},
        "project": {"id": PROJECT, "label_config": CONFIG},
        "task": {"id": number},
    }
    body = json.dumps(event).encode()
    head = ["POST /webhook HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def _stored(folder: Path, expected: int) -> int:
    from backend.store import Store

    store = Store(f"sqlite:///{folder / 'usam.db'}")
    deadline = time.monotonic() + 60
    while (count := len(store.open_events(PROJECT))) < expected and time.monotonic() < deadline:
        time.sleep(0.2)
    store.close()
    if count != expected:
        raise AssertionError(f"{count} of {expected} events were stored")
    return count


def _keep_busy(url: str, stop: threading.Event) -> None:
    rng = np.random.default_rng(0)
    with httpx.Client(timeout=300, trust_env=False) as client:
        while not stop.is_set():
            body = {"tasks": [{"id": 1, "data": {"image": _noise(rng)}}], "project": "1.1", "label_config": CONFIG}
            client.post(f"{url}/predict", json=body).raise_for_status()


def _noise(rng: np.random.Generator) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
