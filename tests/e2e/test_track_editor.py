"""A box drawn with the mouse in Label Studio's own editor is followed, and the editor shows it where the object is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.label_studio.client import LabelStudio
from backend.label_studio.records import Project
from backend.local.label_studio_server import LabelStudioServer
from tests.backend.cli.conftest import Command, command
from tests.e2e.chromium import needs_chromium, wait_for
from tests.e2e.test_browser import Editor
from tests.e2e.test_track import drawn_scene, percent, project
from usam.masks.overlap import paired_iou

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_chromium]
__all__ = ["command", "project"]
OPEN = "const store = window.Htx && window.Htx.annotationStore; "


def write_for_browsers(path: Path, images: list[np.ndarray]) -> Path:
    """A WebM in VP8, which every Chromium plays."""
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 25.0, (width, height))
    if not writer.isOpened():
        pytest.skip("needs an OpenCV that writes VP8")
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def draw(driver: Any, box: np.ndarray, size: tuple[int, int]) -> None:
    """Draw a box, in percent of a video of `size` that is shown as large as it is, from corner to corner."""
    from selenium.webdriver import ActionChains

    (stage,) = driver.find_elements("css selector", ".lsf-video__main .konvajs-content")
    x0, y0, x1, y1 = (round(float(side / 100 - 0.5) * size[axis % 2]) for axis, side in enumerate(box))
    mouse = ActionChains(driver).move_to_element_with_offset(stage, x0, y0).click_and_hold()
    mouse.move_by_offset(20, 20).move_to_element_with_offset(stage, x1, y1).release().perform()


def test_what_is_drawn_with_the_mouse_is_followed_and_shown(
    label_studio: LabelStudio,
    label_studio_server: LabelStudioServer,
    project: Project,
    command: Command,
    browser: Any,
    screenshots: Path,
    tmp_path: Path,
) -> None:
    frames = drawn_scene()
    truth = percent([mask for _, mask in frames])
    label_studio.upload(project.id, [write_for_browsers(tmp_path / "ball.webm", [image for image, _ in frames])])
    (task,) = label_studio.tasks(project.id)
    page, address = Editor(browser), f"{label_studio.url}/projects/{project.id}/data?task={task.id}"
    page.log_in(label_studio.url, label_studio_server.account)
    browser.get(address)
    wait_for(lambda: page.all(".lsf-video__main .konvajs-content"), 60, "the video")
    page.all(".lsf-label")[0].click()
    draw(browser, truth[0], (320, 240))
    wait_for(page.regions, 10, "the box")
    next(button for button in page.all("button") if button.text.strip() == "Submit").click()
    wait_for(lambda: label_studio.annotations(project.id, [task.id]), 20, "the annotation")

    assert command("track", "--project", project.id).exit_code == 0
    browser.get(address)
    wait_for(lambda: browser.execute_script(OPEN + "return store && store.predictions.length"), 60, "the prediction")
    wait_for(lambda: page.all(".lsf-video__main .konvajs-content"), 60, "the video")
    copied = "const copy = store.addAnnotationFromPrediction(store.predictions[0]); store.selectAnnotation(copy.id); "
    shapes = browser.execute_script(
        OPEN + copied + "const region = store.selected.regions[0]; "
        "return [...Array(30).keys()].map(n => { const s = region.getShape(n + 1);"
        " return region.isInLifespan(n + 1) ? [s.x, s.y, s.x + s.width, s.y + s.height] : [0, 0, 0, 0]; })"
    )
    browser.save_screenshot(str(screenshots / "followed-video.png"))
    assert paired_iou(shapes, truth).mean() > 0.85
    (region,) = browser.execute_script(OPEN + "return store.selected.serializeAnnotation()")
    assert len(region["meta"]["confidence"]) == 30, "what is copied keeps how sure each frame was"
    assert "Look at these frames first" in region["meta"]["text"][0]
