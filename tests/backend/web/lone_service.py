"""A service in a process of its own, so that its memory is its own too: `python -m tests.backend.web.lone_service DIR`.

It prints its port once it listens and the model is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
            port = process.stdout.readline().decode().strip()
            assert port.isdigit(), (folder / "service.log").read_text(errors="replace")[-2000:]
            yield LoneService(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main(folder: Path) -> None:
    """Serve nano-s without heads, with a store of its own and without a queue."""
    import uvicorn

    from backend.inference.engine import Engine
    from backend.settings import Settings
    from backend.store import Store
    from backend.web.app import create_app

    given = {"model": "nano-s", "heads": "none", "threads": 1, "points_per_side": 1}
    settings = Settings.from_environment(data_dir=folder, **given)
    with Engine(settings) as engine:
        engine.wait_ready(120)
        app = create_app(settings, engine, Store(settings.store_url), alone=True)
        config = uvicorn.Config(app, port=0, log_level="critical", access_log=False, ws="none")
        server = uvicorn.Server(config)

        def announce() -> None:
            while not server.started:
                time.sleep(0.01)
            print(server.servers[0].sockets[0].getsockname()[1], flush=True)

        threading.Thread(target=announce, daemon=True).start()
        server.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
