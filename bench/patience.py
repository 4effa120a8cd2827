"""How long others wait while somebody sends what is slow: `/health` under a body of 64 MB of `[]`, and a warm click
beside sixteen clicks on pictures that are as slow to decode as any that is taken.

Each wait is timed from its request to its answer over HTTP, one after the other, for as long as the slow request lasts,
and the longest counts. The same is measured at rest before, in the same run, to compare with. The slow pictures are
progressive JPEG files whose last scan is repeated as often as the limits allow.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from bench.clicks import _click, _picture, pictures_at
from bench.rows import Row
from bench.served import served
from usam.errors import ImageError
from usam.images import read_size

MODEL = "nano-m"
MIB = 2**20
HEALTH_S, CLICK_S = 0.3, 1.0
REPEATS = 5
SLOW = 16
WARM_HW, SLOW_HW = (960, 1280), (3000, 4000)
"""(H, W)"""


def run() -> list[Row]:
    """The longest wait of `/health` and of a warm click while others send what is slow."""
    with tempfile.TemporaryDirectory() as name, httpx.Client(timeout=120, trust_env=False) as client:
        with served(Path(name) / "health", model=MODEL) as url:
            rows = _health(client, url)
        with _pictures() as slow, _picture(WARM_HW) as warm:
            hosts = tuple(address.split("/")[2] for address in (slow, warm))
            with served(Path(name) / "clicks", model=MODEL, allowed_hosts=hosts) as url:
                return [*rows, _clicks(client, url, warm, slow)]


def _health(client: httpx.Client, url: str) -> list[Row]:
    body = b"[" + b"[]," * (21 * MIB) + b"[]]"
    ask = f"{url}/health"
    rest = _waits(lambda: client.get(ask).raise_for_status(), seconds=2)
    rows = []
    for route in ("/predict", "/webhook"):
        waits: list[list[float]] = []
        with ThreadPoolExecutor(1) as pool:
            for _ in range(REPEATS):
                sent = pool.submit(httpx.post, f"{url}{route}", content=body, timeout=120, trust_env=False)
                waits.append(_waits(lambda: client.get(ask).raise_for_status(), until=[sent]))
        longest = [max(one, default=0.0) for one in waits]
        note = f"{REPEATS} times, longest of each {_span(longest)} s, {sum(map(len, waits))} answers in all"
        figure = f"/health under a body of {len(body) // 10**6} MB of [] to {route}, longest wait"
        rows.append(_row(figure, max(longest), HEALTH_S, rest, note))
    return rows


def _clicks(client: httpx.Client, url: str, warm: str, slow: str) -> Row:
    rng = np.random.default_rng(0)

    def click() -> object:
        return _click(client, url, warm, WARM_HW, rng)

    def slow_click(number: int) -> float:
        with httpx.Client(timeout=120, trust_env=False) as own:
            return _click(own, url, f"{slow}/{number}.jpg", SLOW_HW, np.random.default_rng(number))

    for _ in range(3):
        click()
    rest = _waits(click, seconds=3)
    longest: list[float] = []
    waits: list[float] = []
    spent = 0.0
    for turn in range(REPEATS):
        with ThreadPoolExecutor(SLOW) as pool:
            started = time.perf_counter()
            sent = [pool.submit(slow_click, turn * SLOW + number) for number in range(SLOW)]
            found = _waits(click, until=sent)
            spent = max(spent, time.perf_counter() - started)
            for one in sent:
                one.result()
        longest.append(max(found))
        waits += found
    note = (
        f"{REPEATS} times, longest of each {_span(longest)} s; {len(waits)} clicks, 95 % within "
        f"{np.percentile(waits, 95):.3f} s; the slow ones took {spent:.1f} s at most"
    )
    figure = f"warm click, {MODEL}, beside {SLOW} clicks on slow pictures of {SLOW_HW[1]} x {SLOW_HW[0]}, longest wait"
    return _row(figure, max(longest), CLICK_S, rest, note)


def _row(figure: str, value: float, target: float, rest: list[float], note: str) -> Row:
    against = f"at rest: longest {max(rest):.3f} s of {len(rest)}"
    return Row(figure=figure, value=value, unit="s", against=against, target=f"<= {target}", note=note)


def _span(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def _waits(
    ask: Callable[[], object], *, until: list[Future[object]] | None = None, seconds: float = 0.0
) -> list[float]:
    """How long each answer took, asked for one after the other."""
    waits = []
    end = time.perf_counter() + seconds
    while not all(one.done() for one in until) if until is not None else time.perf_counter() < end:
        started = time.perf_counter()
        ask()
        waits.append(time.perf_counter() - started)
    return waits


def _slow_jpeg(number: int) -> bytes:
    """A progressive photograph whose last scan comes as often as is taken."""
    from PIL import Image
    from skimage import data

    out = io.BytesIO()
    image = Image.fromarray(np.roll(data.coffee(), number, axis=1))
    image.resize((SLOW_HW[1], SLOW_HW[0]), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90, progressive=True)
    whole = out.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    low, high = 0, 4096
    while high - low > 1:
        middle = (low + high) // 2
        try:
            read_size(whole[:-2] + last * middle + b"\xff\xd9")
            low = middle
        except ImageError:
            high = middle
    return whole[:-2] + last * low + b"\xff\xd9"


@contextmanager
def _pictures() -> Iterator[str]:
    """The address below which `N.jpg` is the slow picture N: each another one, made once."""
    first = _slow_jpeg(0)
    with pictures_at(lambda path: first + path.encode()) as address:  # after its end: another file, the same picture
        yield address
