"""The main job as a person meets it: `usam-backend up`, then Label Studio in a real Chromium.

A screenshot of each step is kept in the folder that USAM_SCREENSHOTS names, else in pytest's temporary folder.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.label_studio.client import LabelStudio
from backend.label_studio.shapes import region_to_mask
from backend.local.label_studio_server import Account
from backend.local.scenes import HW, draw_scenes
from tests.e2e.chromium import needs_chromium, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    needs_chromium,
]

START_S = 900
"""Seconds that a start may take: minutes on a machine that is busy with other tests."""
BACKSPACE, ALT = "\ue003", "\ue00a"
"""The keys as WebDriver's protocol has them."""


@dataclass(frozen=True)
class Running:
    """A started stack."""

    url: str
    project: int
    account: Account
    data: Path
    log: Path
    process: subprocess.Popen[bytes]

    def client(self) -> LabelStudio:
        return LabelStudio(self.url, self.account.token)


def start(data: Path, images: Path | None, program: Path) -> Running:
    """`usam-backend up` on `data`, waited for until it invites to open the project; without `images` the demo's own."""
    chosen = ["--images", str(images)] if images is not None else []
    log = data.with_suffix(f".{time.monotonic_ns()}.log")
    environment = {**os.environ, "USAM_DATA_DIR": str(data), "USAM_LABEL_STUDIO": str(program), "USAM_PORT": "0"}
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL"):
        environment.pop(name, None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend.cli.main", "up", *chosen],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        wait_for(lambda: "Open the project" in log.read_text() or process.poll() is not None, START_S, "the stack")
        said = log.read_text()
        assert process.poll() is None, said
        found = re.search(r"(http://\S+)/projects/(\d+)/data", said)
        assert found, said
        account = Account.of_folder(data / "label-studio")
        return Running(found[1], int(found[2]), account, data, log, process)
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("campaign") / "oranges and lemons", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "var"


@pytest.fixture(scope="module")
def running(data: Path, images: Path, label_studio_program: Path) -> Iterator[Running]:
    stack = start(data, images, label_studio_program)
    yield stack
    if stack.process.poll() is None:
        stop(stack.process)


class Editor:
    """Label Studio's editor as a person uses it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def log_in(self, url: str, account: Account) -> None:
        self.driver.get(f"{url}/user/login/")
        wait_for(lambda: self.all("input[name=email]"), 30, "the login page")
        self.all("input[name=email]")[0].send_keys(account.username)
        self.all("input[name=password]")[0].send_keys(account.password)
        self.all("input[name=password]")[0].submit()
        wait_for(lambda: "login" not in self.driver.current_url, 30, "logging in")

    def texts(self, css: str) -> list[str]:
        """Visible text of all that matches, read at once: the page may redraw between two questions."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return [" ".join(text.split()) for text in self.driver.execute_script(script, css)]

    def task(self) -> int:
        """Number of the task shown, 0 while none is."""
        found = re.search(r"\d+", " ".join(self.texts(".lsf-current-task__task-id")))
        return int(found[0]) if found else 0

    def regions(self) -> list[float | None]:
        """The score of each region of the annotation that is open, None for a person's own. The page's list shows
        only as many as there is room for, so the editor's own store is asked."""
        script = """
            const open = window.Htx && window.Htx.annotationStore && window.Htx.annotationStore.selected;
            return open ? open.regionStore.regions.map(region => region.score ?? null) : [];
        """
        return list(self.driver.execute_script(script))

    def masks(self) -> list[float]:
        """Those that the model made: they carry a predicted IoU, which a person's point does not."""
        return [score for score in self.regions() if score is not None]

    def close_instructions(self) -> None:
        """Close the instructions that Label Studio shows before the first task."""
        wait_for(lambda: self.all("[aria-label='Close modal']"), 20, "the instructions")[0].click()
        wait_for(lambda: not self.all(".lsf-modal-ls_visible"), 20, "the picture")

    def labels(self) -> list[list[str]]:
        """The labels of each region."""
        script = "return Htx.annotationStore.selected.regionStore.regions.map(region => region.labels)"
        return list(self.driver.execute_script(script))

    def hide_regions(self) -> None:
        """Hide all regions: a click on one that is shown would select it instead of setting a point."""
        wait_for(lambda: self.all("[aria-label='Hide all regions']"), 20, "the button that hides regions")[0].click()

    def switch(self, words: str) -> None:
        found = f"//*[normalize-space(text())='{words}']"
        wait_for(lambda: self.driver.find_elements("xpath", found), 20, words)[0].click()

    def click_picture(self, x: float, y: float) -> None:
        """Click at a share of the picture's width and height, after choosing a label and the smart point tool."""
        self.all(".lsf-label_clickable")[0].click()
        wait_for(lambda: self.all(".lsf-tool_smart"), 20, "the Auto-Detect tool")[0].click()
        self.press(x, y)

    def place(self, x: float, y: float) -> tuple[Any, int, int]:
        """The canvas and, from its middle, where a share of the picture's width and height lies on it."""
        canvas = self.all(".konvajs-content canvas")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", canvas)
        width, height = canvas.size["width"], canvas.size["height"]
        side = self.driver.execute_script(
            "const i = document.querySelector('.lsf-main-content img, img[class*=image]');"
            "return i ? [i.clientWidth, i.clientHeight] : null"
        ) or [width, height]
        return canvas, int(x * side[0] - width / 2), int(y * side[1] - height / 2)

    def press(self, x: float, y: float, *held: str) -> None:
        """Click at a share of the picture's width and height with the tool in hand, while keys are held."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver).move_to_element_with_offset(*self.place(x, y))
        for key in held:
            chain.key_down(key)
        chain.click()
        for key in held:
            chain.key_up(key)
        chain.perform()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw from one place to another with the tool in hand."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver).move_to_element_with_offset(*self.place(*start)).click_and_hold()
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        for point in (middle, end):
            chain.move_to_element_with_offset(*self.place(*point))
        chain.release().perform()

    def tool(self) -> str:
        """The tool in hand."""
        script = (
            "const one = document.querySelector('[class*=tool_active]'); return one && one.getAttribute('aria-label')"
        )
        return str(self.driver.execute_script(script))

    def keys(self, *keys: str) -> None:
        """Press keys, one after the other."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def suggested(self) -> list[float]:
        """The scores of suggestions that are not accepted yet."""
        script = "return [...Htx.annotationStore.selected.suggestions.values()].map(region => region.score)"
        return list(self.driver.execute_script(script))

    def submit(self) -> None:
        for button in self.driver.find_elements("css selector", "button"):
            if button.text.strip() == "Submit":
                button.click()
                return
        raise AssertionError("no Submit button")


def middle_of(client: LabelStudio, project: int, task: int, region: str) -> tuple[float, float]:
    """Where a predicted mask of a task is thickest, in shares of the picture's width and height."""
    parts = [part for one in client.predictions(project, [task]) for part in one.result]
    mask = region_to_mask(next(part for part in parts if part["type"] == "brush" and part["id"] == region), HW)
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return (column + 0.5) / HW[1], (row + 0.5) / HW[0]


def test_a_person_gets_the_ranked_task_clicks_submits_and_gets_the_next(
    running: Running, browser: Any, screenshots: Path
) -> None:
    with running.client() as client:
        order = [task for task, _ in client.first_by_score(running.project, 3)]
        editor = Editor(browser)
        editor.log_in(running.url, running.account)
        browser.get(f"{running.url}/projects/{running.project}/data?labeling=1")
        wait_for(editor.regions, 60, "predicted masks in the list of regions")
        assert editor.task() == order[0], "the task shown is the one ranked first"
        assert "Alt+click" in " ".join(editor.texts(".lsf-modal-ls_visible"))
        browser.save_screenshot(str(screenshots / "0-instructions.png"))
        editor.close_instructions()
        assert editor.texts(".lsf-label_clickable") == ["Orange 1", "Lemon 2"], "one row of labels"
        predicted = editor.regions()
        assert editor.masks() == predicted, "each mask carries its predicted IoU"
        assert re.search(rf"{predicted[0]:.2f}$", editor.texts(".lsf-outliner-item")[0]), "and shows it"
        browser.save_screenshot(str(screenshots / "1-predicted-masks.png"))

        editor.keys("v")
        first = browser.execute_script("return Htx.annotationStore.selected.regionStore.regions[0].cleanId")
        editor.press(*middle_of(client, running.project, order[0], first))
        editor.all(".lsf-label_clickable")[0].click()
        wait_for(lambda: ["Orange"] in editor.labels(), 10, "the label of the mask that was clicked")
        assert len(editor.regions()) == len(predicted), "and nothing was painted"

        editor.switch("Auto-Annotation")
        editor.switch("Auto-Accept Suggestions")
        editor.hide_regions()
        editor.click_picture(0.5, 0.5)
        wait_for(lambda: len(editor.masks()) > len(predicted), 60, "a mask for the click")
        assert editor.labels()[-1] == ["Orange"], "under the label that was chosen"
        browser.save_screenshot(str(screenshots / "2-smart-click.png"))

        editor.keys("v")
        editor.press(0.5, 0.5)
        masks = len(editor.masks()) - 1
        editor.keys(BACKSPACE)
        wait_for(lambda: len(editor.masks()) == masks, 10, "the mask to be deleted")
        editor.switch("Auto-Accept Suggestions")
        editor.click_picture(0.5, 0.5)
        before = wait_for(editor.suggested, 60, "a suggestion for the click")
        editor.press(0.5, 0.6, ALT)
        wait_for(lambda: editor.suggested() not in ([], before), 60, "another suggestion after the negative click")
        editor.all("[data-testid='bottombar-accept-suggestions-button']")[0].click()
        wait_for(lambda: len(editor.masks()) == masks + 1, 20, "the mask that was accepted")
        browser.save_screenshot(str(screenshots / "2-negative-click.png"))

        editor.submit()
        wait_for(lambda: editor.task() not in (0, order[0]), 60, "the next task")
        assert editor.task() == order[1], "the next task is the one ranked second"
        wait_for(editor.regions, 60, "its predicted masks")
        browser.save_screenshot(str(screenshots / "3-next-task.png"))

        (annotation,) = client.annotations(running.project, [order[0]])
        brushed = [region for region in annotation.result if region["type"] == "brush"]
        assert len(brushed) > len(predicted), "the predicted masks and the clicked one were saved"


def test_the_services_own_page_shows_the_queue_and_opens_a_task(
    running: Running, browser: Any, screenshots: Path
) -> None:
    from backend.local.running import ENV_FILE

    port = re.search(r"USAM_PORT=(\d+)", (running.data / ENV_FILE).read_text())
    assert port
    page, editor = f"http://127.0.0.1:{port[1]}", Editor(browser)
    editor.log_in(running.url, running.account)
    browser.get(page)
    wait_for(lambda: "1 labelled / 4 left" in " ".join(editor.texts(".count")), 60, "the label that was submitted")
    wait_for(lambda: editor.texts(".card h2") and "Project" not in editor.texts(".card h2")[0], 30, "its title")
    assert editor.texts(".notices") == [], "nothing needs a person"
    browser.save_screenshot(str(screenshots / "4-page-overview.png"))

    browser.get(f"{page}/projects/{running.project}/queue")
    ready = "return [...document.images].every(one => one.complete && one.naturalWidth)"
    wait_for(lambda: browser.execute_script(ready), 60, "the small pictures")
    with running.client() as client:
        open_tasks = {task.id for task in client.tasks(running.project) if not task.annotations}
        order = [task for task, _ in client.first_by_score(running.project, 5) if task in open_tasks]
    shown = [int(found[1]) for text in editor.texts(".tile h2") if (found := re.search(r"Task (\d+)", text))]
    assert shown == order, "in the order in which Label Studio serves them"
    assert len(browser.find_elements("css selector", ".tile img")) == len(order)
    browser.save_screenshot(str(screenshots / "5-page-queue.png"))

    browser.find_element("id", f"open-{order[0]}").click()
    browser.switch_to.window(browser.window_handles[-1])
    wait_for(lambda: editor.task() == order[0], 60, "the task in Label Studio")


def test_a_stop_ends_everything_and_a_second_start_goes_on(
    running: Running, images: Path, label_studio_program: Path
) -> None:
    with running.client() as client:
        before = client.task_count(running.project)
        labelled = sum(task.annotations for task in client.tasks(running.project))
    stop(running.process)
    assert running.process.returncode == 0, running.log.read_text()
    left = subprocess.run(["ps", "-eo", "command"], capture_output=True, text=True, check=True).stdout
    assert str(running.data) not in left, "no process of the run is left"

    again = start(running.data, images, label_studio_program)
    try:
        with again.client() as client:
            assert again.project == running.project
            assert client.task_count(again.project) == before
            assert sum(task.annotations for task in client.tasks(again.project)) == labelled
    finally:
        stop(again.process)
