"""The service's own page in a real Chromium: with a password, at 400 and 1,600 pixels, light and dark, by keyboard.

A screenshot of each page is kept in the folder that USAM_SCREENSHOTS names, else in pytest's temporary folder.
"""

from __future__ import annotations

import base64
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr

from backend.inference.engine import Engine
from backend.label_studio.records import Project
from backend.local.processes import free_port
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.app import create_app
from backend.web.dashboard.surroundings import Surroundings
from tests.e2e.chromium import needs_chromium, wait_for
from tests.e2e.page_store import HW, fill
from tests.factories import PageQueue, head_set, label_config

pytest.importorskip("js_lib_htmx", reason="needs the package django-js-lib-htmx")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    needs_chromium,
]
TITLE = "<img src=x onerror=alert(1)> Cats & dogs"
PAGES = (
    "",
    *(
        f"projects/3/{tab}"
        for tab in ("queue", "learning", "review", "tasks/1", "versions", "trust", "confirm/train", "confirm/accept")
    ),
    "projects/99/queue",
)
ALL_LOADED = "return [...document.images].every(one => one.complete)"
BROKEN = "return [...document.images].filter(one => !one.naturalWidth).map(one => one.src)"
SIZE = "const one = document.querySelector(arguments[0]); return one.complete && [one.naturalWidth, one.naturalHeight]"


class Titles:
    def projects(self) -> list[Project]:
        return [Project(3, TITLE, label_config(), "", "", "2026"), Project(4, "Cells", "", "", "", "2026")]


@contextmanager
def titles() -> Iterator[Titles]:
    yield Titles()


@dataclass
class Served:
    """A running service and what is behind it."""

    port: int
    store: Store
    registry: Registry
    queue: PageQueue
    surroundings: Surroundings
    server: uvicorn.Server

    def url(self, path: str = "") -> str:
        return f"http://ann:secret@127.0.0.1:{self.port}/{path}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port(0, "127.0.0.1")
    settings = Settings(
        data_dir=tmp_path / "data",
        model="nano-s",
        heads="none",
        random_weights=True,
        threads=1,
        port=port,
        auth_user="ann",
        auth_password=SecretStr("secret"),
        label_studio_url="http://127.0.0.1:1",
        label_studio_public_url=f"http://localhost:{port}/labels",
    )
    store, registry, queue = Store(settings.store_url), Registry(settings.registry_dir), PageQueue()
    fill(store, registry, settings.data_dir)
    with Engine(settings) as engine:
        app = create_app(settings, engine, store, queue, registry)  # type: ignore[arg-type]
        surroundings = app.state.service.board.surroundings
        surroundings.open_label_studio = titles
        surroundings.look()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started, 30, "the service")
        yield Served(port, store, registry, queue, surroundings, server)
        server.should_exit = True
        thread.join(20)
    store.close()


def text(browser: Any) -> str:
    return str(browser.execute_script("return document.body ? document.body.innerText : ''"))


def keys(browser: Any, *pressed: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


def focused(browser: Any) -> str:
    return str(browser.execute_script("return document.activeElement.id || document.activeElement.className"))


def tab_to(browser: Any, wanted: str) -> None:
    """Press Tab until the element of this id has the focus."""
    from selenium.webdriver.common.keys import Keys

    for _ in range(60):
        if focused(browser) == wanted:
            return
        keys(browser, Keys.TAB)
    raise AssertionError(f"no Tab leads to {wanted}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_every_page_fits_and_breaks_no_rule_of_its_own(
    served: Served, browser: Any, screenshots: Path, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    grounds = set()
    for path in PAGES:
        browser.get(served.url(path))
        browser.execute_script("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
        wait_for(lambda: browser.execute_script(ALL_LOADED), 20, f"pictures of {path}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path
        assert browser.execute_script(BROKEN) == [], path
        assert browser.execute_script("return document.querySelectorAll('main img[onerror]').length") == 0
        grounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        whole = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        name = f"page-{path.replace('/', '-') or 'overview'}-{width}-{scheme}.png"
        (screenshots / name).write_bytes(base64.b64decode(whole))
        wrong = [line["message"] for line in browser.get_log("browser") if "404" not in line["message"]]
        assert wrong == [], path
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert all(f"127.0.0.1:{served.port}/" in address for address in loaded), loaded
    (ground,) = grounds
    assert (ground == "rgb(251, 252, 253)") is (scheme == "light")


def test_what_changes_is_shown_without_a_reload(served: Served, browser: Any) -> None:
    browser.get(served.url())
    assert TITLE in text(browser)
    browser.execute_script("window.here = true; document.getElementById('trust-3').focus()")
    run = served.store.start_run(3, "score_pool", total=40)
    served.store.update_run(run, done=10, total=40)
    wait_for(lambda: "10 of 40" in text(browser), 20, "progress of the ranking")
    assert focused(browser) == "trust-3", "the focus stays where it was"
    served.queue.lost = True
    served.surroundings._looked_at = float("-inf")
    wait_for(lambda: "Redis does not answer" in text(browser), 20, "the loss of Redis")
    served.store.join(5)
    wait_for(lambda: "Project 5" in text(browser), 20, "the new project")
    assert browser.execute_script("return window.here"), "and nobody reloaded it"
    assert "Not renewed" not in text(browser)


def test_a_service_that_is_gone_is_said(served: Served, browser: Any) -> None:
    browser.get(served.url("projects/3/queue"))
    served.server.should_exit = True
    wait_for(lambda: "Not renewed for a while" in text(browser), 40, "the sign of a lost service")


def test_the_queue_shows_pictures_or_says_why_not(served: Served, browser: Any) -> None:
    browser.get(served.url("projects/3/queue"))
    shown = text(browser)
    assert "This picture could not be used: no such file" in shown
    assert wait_for(lambda: browser.execute_script(SIZE, "#picture-1 img"), 20, "the first picture") == [HW[1], HW[0]]
    link = browser.find_element("css selector", "#open-1").get_attribute("href")
    assert link == f"http://localhost:{served.port}/labels/projects/3/data?task=1"
    browser.find_element("link text", "Audits").click()
    wait_for(lambda: "show=audits" in browser.current_url, 10, "the audits")
    titles_shown = [one.text for one in browser.find_elements("css selector", ".tile h2")]
    assert titles_shown == ["Task 2 audit"]


def test_a_task_is_looked_at_closely_and_back_by_keyboard_alone(served: Served, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(served.url("projects/3/queue?show=audits"))
    tab_to(browser, "closer-2")
    keys(browser, Keys.ENTER)
    wait_for(lambda: "/tasks/2" in browser.current_url, 10, "the task")
    for view in ("proposals", "doubt", "readings"):
        size = wait_for(lambda view=view: browser.execute_script(SIZE, f"#{view}"), 20, f"the picture of {view}")
        assert size == [HW[1], HW[0]]
    shown = text(browser)
    assert "larger model (large)" in shown
    assert "which object is meant" in shown or "not known without heads" in shown
    link = browser.find_element("css selector", "#studio").get_attribute("href")
    assert link == f"http://localhost:{served.port}/labels/projects/3/data?task=2"
    tab_to(browser, "back")
    keys(browser, Keys.ENTER)
    wait_for(lambda: browser.current_url.endswith("/queue?show=audits"), 10, "the queue as it was")


@pytest.mark.parametrize("page", ["queue", "learning", "tasks/1", "versions"])
def test_a_project_that_is_deleted_while_its_page_is_open_is_a_sentence(
    served: Served, browser: Any, page: str
) -> None:
    browser.get(served.url(f"projects/3/{page}"))
    served.store.leave(3)
    wait_for(lambda: "Project 3 is not looked after here" in text(browser), 20, "the sentence")
    time.sleep(13)  # longer than a page goes without a sign of life
    assert "Not renewed" not in text(browser)
    served.store.join(3)
    wait_for(lambda: "is not looked after here" not in text(browser), 20, "the project, once it is back")


def test_a_roll_back_by_keyboard_alone(served: Served, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    old, new = head_set(1).version, head_set(2).version
    browser.get(served.url())
    keys(browser, Keys.TAB)
    assert focused(browser) == "skip", "the first Tab offers to skip what every page has"
    tab_to(browser, "versions-3")
    keys(browser, Keys.ENTER)
    wait_for(lambda: "/versions" in browser.current_url, 10, "the versions")
    tab_to(browser, f"rollback-{old}")
    keys(browser, Keys.ENTER)
    wait_for(lambda: "/confirm/rollback" in browser.current_url, 10, "the question")
    assert served.registry.champion(3) == new, "nothing is done before it is confirmed"
    tab_to(browser, "yes")
    keys(browser, Keys.ENTER)
    wait_for(lambda: browser.current_url.endswith("/versions"), 10, "the versions again")
    assert served.registry.champion(3) == old
    assert served.queue.jobs == [(3, "score_pool")]
    assert f"Roll back to {old} by ann from 127.0.0.1" in text(browser)


def test_masks_are_accepted_by_keyboard_alone_and_how_far_it_is_comes_by_itself(served: Served, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(served.url("projects/3/trust"))
    tab_to(browser, "iou")
    keys(browser, Keys.ARROW_RIGHT)
    link = "return document.getElementById('accept').getAttribute('href')"
    wait_for(lambda: "iou=0.85&" in browser.execute_script(link), 10, "the IoU of the slider in the button")
    tab_to(browser, "accept")
    keys(browser, Keys.ENTER)
    wait_for(lambda: "/confirm/accept" in browser.current_url, 10, "the question")
    assert "IoU 0.85" in text(browser)
    assert served.store.waiting_acceptance(3) is None, "nothing is done before it is confirmed"
    tab_to(browser, "yes")
    keys(browser, Keys.ENTER)
    wait_for(lambda: browser.current_url.endswith("/trust"), 10, "the page of trust again")
    waiting = served.store.waiting_acceptance(3)
    assert waiting is not None
    assert (waiting.iou, waiting.risk, waiting.who) == (0.85, 0.1, "ann from 127.0.0.1")
    assert served.queue.jobs == [(3, "pseudo_label")]
    assert "Waits for a worker." in text(browser)
    browser.execute_script("window.here = true")
    run = served.store.start_run(3, "pseudo_label")
    served.store.update_run(run, done=3, total=12)
    wait_for(lambda: "Being done now: 3 of 12." in text(browser), 20, "how far it is")
    served.store.finish_run(run, "rejected", "too few audits")
    served.store.end_acceptance(waiting.id, "refused", "too few audits", 17)
    wait_for(lambda: "Label 17 more audit tasks first." in text(browser), 20, "the refusal")
    assert browser.execute_script("return window.here"), "and nobody reloaded it"


def test_a_doubted_label_is_said_to_be_right_and_doubted_again(served: Served, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(served.url("projects/3/review"))
    assert "labelled Lemon, looks like Orange" in text(browser)
    tab_to(browser, "right-1")
    keys(browser, Keys.ENTER)
    wait_for(lambda: "labelled Lemon, looks like Orange" not in text(browser), 10, "the list without it")
    (said,) = served.store.right_labels(3)
    assert (said.annotation, said.place, said.reason, said.who) == (100, "r", "label", "ann from 127.0.0.1")
    browser.find_element("link text", "Said to be right 1").click()
    wait_for(lambda: "labelled Lemon, looks like Orange" in text(browser), 10, "what is right")
    browser.find_element("id", "doubt-again-1").click()
    wait_for(lambda: "Nothing here" in text(browser), 10, "the empty list of what is right")
    assert served.store.right_labels(3) == []


def test_another_sites_page_can_do_nothing(served: Served, browser: Any) -> None:
    target = f"http://127.0.0.1:{served.port}/projects/3/train"
    form = f'<form method="post" action="{target}"><input name="token" value="x"></form>'
    page = f"{form}<script>document.forms[0].submit()</script>"

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            return

    browser.get(served.url("projects/3/versions"))  # the browser knows the password from now on
    evil = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=evil.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://127.0.0.1:{evil.server_port}/")
        wait_for(lambda: "requests of other web pages are refused" in text(browser), 20, "the refusal")
    finally:
        evil.shutdown()
        evil.server_close()
    assert served.queue.jobs == []
