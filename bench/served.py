"""What several benchmarks start: a backend in a process of its own, a real Label Studio with what jobs need, pictures.

Label Studio is the program that USAM_LABEL_STUDIO names, else `.venv-label-studio`, which is made where it is missing.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.local.label_studio_server import LabelStudioServer, find_label_studio, install_label_studio
from backend.resources import Resources
from backend.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="thing"/></BrushLabels></View>"""


def _serve(settings: dict[str, Any], port: int, with_store: bool) -> None:
    import uvicorn

    from backend.settings import Settings
    from backend.store import Store
    from backend.store.head_registry import Registry
    from backend.web.app import create_app

    made = Settings(**settings)
    store = Store(made.store_url) if with_store else None
    registry = Registry(made.registry_dir) if with_store else None
    uvicorn.run(
        create_app(made, store=store, registry=registry, alone=True), port=port, log_level="error", access_log=False
    )


@contextmanager
def served(folder: Path, *, with_store: bool = False, **settings: Any) -> Iterator[str]:
    """Run the service with these settings until the block ends; gives its address once the model is loaded."""
    from backend.local.processes import free_port

    port = free_port(0, "127.0.0.1")
    given = {"data_dir": folder, "heads": "auto", **settings}
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(given, port, with_store))
    process.start()
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                state = httpx.get(f"{url}/health", timeout=5, trust_env=False).json()["engine"]
            except httpx.HTTPError:
                state = "starting"
            if state == "ready":
                break
            if state == "failed" or not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the backend did not come up: {state}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join(20)


def label_studio_program() -> Path:
    """The `label-studio` program."""
    return find_label_studio(ROOT) or install_label_studio(ROOT, say=print)


@contextmanager
def beside_label_studio(**settings: Any) -> Iterator[Resources]:
    """What jobs need, beside a Label Studio that is started for it. Jobs run in this process: no queue is needed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with LabelStudioServer(label_studio_program(), folder / "label-studio") as server:
            told = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.account.token}
            with (
                environment(told),
                Resources.open(Settings.from_environment(data_dir=folder / "data", **settings)) as opened,
            ):
                yield opened


@contextmanager
def environment(told: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, until the block ends."""
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def photographs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> list[Path]:
    """`count` JPEG files of `size` (width, height), each another part of a photograph inside scikit-image."""
    import skimage.data
    from PIL import Image

    names = ("astronaut", "coffee", "chelsea", "rocket", "cat", "retina")
    sources = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in names]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        x, y = (int(rng.integers(0, side // 3)) for side in source.size)
        part = source.crop((x, y, x + source.width * 2 // 3, y + source.height * 2 // 3))
        path = folder / f"{number}.jpg"
        part.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
        paths.append(path)
    return paths
