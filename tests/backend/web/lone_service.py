"""A service in a process of its own, so that its memory is its own too: `python -m tests.backend.web.lone_service DIR`.

It prints its address once it listens and the model is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class LoneService:
    """Where it listens, and its process."""

    url: str
    pid: int

    def memory(self) -> float:
        """MiB that it holds now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE / 2**20


@contextmanager
def lone_service(folder: Path, **settings: str) -> Iterator[LoneService]:
    """Run it on a data folder until the block ends; `settings` are variables, in small letters without prefix."""
    command = [sys.executable, "-m", __name__, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    environment |= {f"USAM_{name.upper()}": value for name, value in settings.items()}
    log = (folder / "service.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            assert url, (folder / "service.log").read_text(errors="replace")[-2000:]
            yield LoneService(url, process.pid)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def service_here(folder: Path, *, alone: bool = False) -> Iterator[uvicorn.Server]:
    """The same service, to be run in this process: nano-s without heads, with a store and without a queue."""
    from backend.inference.engine import Engine
    from backend.settings import Settings
    from backend.store import Store
    from backend.web.app import create_app

    given = {"model": "nano-s", "heads": "none", "threads": 1, "points_per_side": 1}
    settings = Settings.from_environment(data_dir=folder, **given)
    with Engine(settings) as engine, closing(Store(settings.store_url)) as store:
        engine.wait_ready(120)
        app = create_app(settings, engine, store, alone=alone)
        yield uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False, ws="none"))


def url_of(server: uvicorn.Server) -> str:
    """Where it listens, once it does."""
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def main(folder: Path) -> None:
    """Serve until the process is ended."""
    with service_here(folder, alone=True) as server:
        threading.Thread(target=lambda: print(url_of(server), flush=True), daemon=True).start()
        server.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
