"""The pictures of the README and the docs, made by a command: `python -m tests.pictures [--out FOLDER]`.

It starts the demo, labels its tasks as a careful person does, waits until usam has learnt from them, and looks at Label
Studio and the service's page in a real Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from backend.local.demo import RETRAIN_AFTER, TITLE
from backend.local.label_studio_server import find_label_studio, install_label_studio
from backend.local.running import ENV_FILE
from backend.store import Store
from tests.e2e.chromium import CHROMIUM, DRIVER, open_chromium, wait_for
from tests.e2e.test_browser import Editor, Running, start, stop
from tests.e2e.test_demo import true_regions, wait_for_run

ROOT = Path(__file__).resolve().parents[1]
WIDTH, QUALITY = 1200, 85
"""Of the pictures, in pixels and as JPEG counts it."""
SECONDS = 300
LOADED = "return [...document.images].every(one => one.complete && one.naturalWidth)"


def make_pictures(out: Path) -> list[Path]:
    """Write the pictures to a folder; returns their paths."""
    program = find_label_studio(ROOT) or install_label_studio(ROOT, say=print)
    with tempfile.TemporaryDirectory() as folder:
        running = start(Path(folder) / "var", None, program)
        store = Store(f"sqlite:///{running.data / 'usam.db'}")
        browser = open_chromium(Path(folder) / "profile")
        try:
            return _look(running, store, browser, out)
        finally:
            browser.quit()
            store.close()
            stop(running.process)


def _look(running: Running, store: Store, browser: Any, out: Path) -> list[Path]:
    project, port = running.project, re.search(r"USAM_PORT=(\d+)", (running.data / ENV_FILE).read_text())
    assert port is not None
    page = f"http://127.0.0.1:{port[1]}/projects/{project}"
    label(running, store)
    editor = Editor(browser)
    editor.log_in(running.url, running.account)
    resize(browser, 1400, 800)
    browser.get(f"{running.url}/projects/{project}/data?labeling=1")
    wait_for(editor.regions, 60, "predicted masks")
    editor.close_instructions()
    made = [keep(browser, out / "labelling.jpg")]

    resize(browser, 1440, 706)
    wait_for(lambda: TITLE in named(browser, f"{page}/queue"), 60, "the project's title")
    show(browser, f"{page}/queue")
    made.append(keep(browser, out / "queue.jpg"))
    second = store.ranking(project)[1].task
    show(browser, f"{page}/tasks/{second}")
    resize(browser, 1440, 756)
    browser.execute_script("document.querySelector('h1').scrollIntoView()")
    made.append(keep(browser, out / "closer.jpg"))

    resize(browser, 1440, 750)
    show(browser, f"{page}/learning")
    made.append(keep(browser, out / "learning.jpg"))
    return made


def label(running: Running, store: Store) -> None:
    """Label the ten tasks that are ranked first, and wait until they are learnt and the others ranked anew."""
    project = running.project
    last = max(run.id for run in store.runs(project))
    with running.client() as client:
        tasks = {task.id: task for task in client.tasks(project)}
        for row in store.ranking(project)[:RETRAIN_AFTER]:
            client.annotate(row.task, true_regions(tasks[row.task]))
    learnt = wait_for_run(store, project, "retrain", last, SECONDS)
    for job in ("score_pool", "plan"):
        wait_for_run(store, project, job, learnt.id, SECONDS)


def named(browser: Any, address: str) -> str:
    """The project's title as a page has it."""
    browser.get(address)
    return str(browser.execute_script("return document.querySelector('.where').innerText"))


def show(browser: Any, address: str) -> None:
    """Open a page and wait for its pictures."""
    browser.get(address)
    browser.execute_script("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
    wait_for(lambda: browser.execute_script(LOADED), 60, f"the pictures of {address}")


def resize(browser: Any, width: int, height: int) -> None:
    """Show pages in this size, in pixels, without a scroll bar."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    media = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def keep(browser: Any, path: Path) -> Path:
    """What the browser shows, as a file."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    image = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY, optimize=True)
    print(f"{path}  {image.width} x {image.height}, {path.stat().st_size / 1024:.0f} KiB", flush=True)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and make the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder to write to")
    given = parser.parse_args(arguments)
    if not (CHROMIUM and DRIVER):
        parser.exit(2, "expected chromium and chromedriver, got none; Debian: apt-get install chromium-driver\n")
    make_pictures(given.out)


if __name__ == "__main__":
    main()
