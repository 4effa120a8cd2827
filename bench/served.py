"""A backend in a process of its own, for benchmarks that measure it over HTTP."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


def _serve(settings: dict[str, Any], port: int, with_store: bool) -> None:
    import uvicorn

    from backend.app import create_app
    from backend.settings import Settings
    from backend.store import Store

    made = Settings(**settings)
    store = Store(made.store_url) if with_store else None
    uvicorn.run(create_app(made, store=store), port=port, log_level="error", access_log=False)


@contextmanager
def served(folder: Path, *, with_store: bool = False, **settings: Any) -> Iterator[str]:
    """Run the service with these settings until the block ends; gives its address once the model is loaded."""
    from backend.processes import free_port

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
