"""The README's first ten minutes, word for word, in a real Chromium: each sentence of its steps is done."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.label_studio.shapes import region_to_mask
from backend.local.demo import LABELS, RETRAIN_AFTER
from backend.local.label_studio_server import LABEL_STUDIO_VERSION
from backend.local.scenes import FRUIT, HW
from backend.store import Store
from tests.e2e.chromium import needs_chromium, wait_for
from tests.e2e.test_browser import BACKSPACE, Editor, Running, start, stop
from tests.e2e.test_demo import scene_of, shown, true_regions, wait_for_run
from usam.masks import iou, mask_box

README = Path(__file__).resolve().parents[2] / "README.md"
SECONDS = 400


def steps_of(text: str) -> list[str]:
    """The sentences of the numbered steps below "The first ten minutes"."""
    section = text.partition("## The first ten minutes")[2].partition("\n- **")[0]
    steps = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\n\n)", section, re.MULTILINE | re.DOTALL)
    return [sentence for step in steps for sentence in re.split(r"(?<=\.) (?=[A-Z])", " ".join(step.split()))]


class Person:
    """Somebody who does what the README says, on a demo that has just started."""

    def __init__(self, running: Running, driver: Any) -> None:
        self.running, self.driver, self.editor = running, driver, Editor(driver)
        self.store = Store(f"sqlite:///{running.data / 'usam.db'}")
        with running.client() as client:
            self.order = [task for task, _ in client.first_by_score(running.project, RETRAIN_AFTER)]
            self.tasks = {task.id: task for task in client.tasks(running.project)}
            rest = [task for number, task in self.tasks.items() if number not in self.order]
            self.before = shown(client, running.project, rest)
            (first,) = [one for one in client.predictions(running.project, self.order[:1]) if one.result][:1]
        self.masks = {one["id"]: region_to_mask(one, HW) for one in first.result if one["type"] == "brush"}
        fruit = scene_of(self.tasks[self.order[0]]).fruit
        self.kinds = {
            name: next((thing.kind for thing in fruit if iou(mask, thing.mask) >= 0.5), "")
            for name, mask in self.masks.items()
        }

    def middle(self, name: str) -> tuple[float, float]:
        inside = cv2.distanceTransform(np.pad(self.masks[name], 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        return (column + 0.5) / HW[1], (row + 0.5) / HW[0]

    def choose(self, kind: str) -> None:
        self.editor.all(".lsf-label_clickable")[list(LABELS).index(kind)].click()

    def delete(self, name: str) -> None:
        count = len(self.editor.regions())
        self.editor.press(*self.middle(name))
        self.editor.keys(BACKSPACE)
        wait_for(lambda: len(self.editor.regions()) == count - 1, 20, "the mask to be deleted")

    def begin_labelling(self) -> None:
        self.editor.log_in(self.running.url, self.running.account)
        self.driver.get(f"{self.running.url}/projects/{self.running.project}/data")
        button = "//button[normalize-space(.)='Label All Tasks']"
        wait_for(lambda: self.driver.find_elements("xpath", button), 60, "Label All Tasks")[0].click()

    def read_the_instructions(self) -> None:
        wait_for(lambda: "Alt+click" in " ".join(self.editor.texts(".lsf-modal-ls_visible")), 60, "the instructions")
        self.editor.close_instructions()

    def see_masks_without_labels(self) -> None:
        wait_for(self.editor.regions, 60, "predicted masks")
        assert self.editor.task() == self.order[0]
        assert len(self.editor.regions()) == len(self.masks)
        assert not any(self.editor.labels())

    def take_the_arrow(self) -> None:
        assert self.editor.tool() == "brush-tool"
        self.editor.all("[aria-label='move-tool']")[0].click()
        for tool in ("brush-tool", "move-tool"):
            self.editor.keys("v")
            wait_for(lambda tool=tool: self.editor.tool() == tool, 10, tool)

    def name_fruit(self) -> None:
        for name, kind in self.kinds.items():
            if kind:
                self.editor.press(*self.middle(name))
                named = self.editor.labels().count([kind])
                self.choose(kind)
                wait_for(lambda kind=kind, named=named: self.editor.labels().count([kind]) > named, 10, kind)
        assert len(self.editor.regions()) == len(self.masks), "nothing was painted"

    def delete_what_is_no_fruit(self) -> None:
        for name, kind in self.kinds.items():
            if not kind:
                self.delete(name)

    def click_fruit_without_a_mask(self) -> None:
        self.bare = [name for name, kind in self.kinds.items() if kind][:2]
        for name in self.bare:
            self.delete(name)
        self.editor.switch("Auto-Annotation")
        self.editor.switch("Auto-Accept Suggestions")
        self.choose(self.kinds[self.bare[0]])
        wait_for(lambda: self.editor.all(".lsf-tool_smart"), 20, "the Auto-Detect tool")[0].click()
        count = len(self.editor.regions())
        self.editor.press(*self.middle(self.bare[0]))
        wait_for(lambda: len(self.editor.masks()) > count, 60, "a mask for the click")
        assert self.editor.labels()[-1] == [self.kinds[self.bare[0]]]

    def draw_a_box(self) -> None:
        if self.kinds[self.bare[1]] != self.kinds[self.bare[0]]:  # a label that is pressed twice is let go
            self.choose(self.kinds[self.bare[1]])
        self.editor.all(".lsf-tool_smart")[0].click()
        count, box = len(self.editor.regions()), mask_box(self.masks[self.bare[1]]) / [HW[1], HW[0], HW[1], HW[0]]
        self.editor.drag((float(box[0]), float(box[1])), (float(box[2]), float(box[3])))
        wait_for(lambda: len(self.editor.masks()) > count, 60, "a mask for the box")
        assert self.editor.labels()[-1] == [self.kinds[self.bare[1]]]

    def submit(self) -> None:
        self.editor.submit()

    def see_the_next_picture(self) -> None:
        wait_for(lambda: self.editor.task() == self.order[1], 60, "the picture ranked second")

    def label_ten(self) -> None:
        last = max(run.id for run in self.store.runs(self.running.project))
        with self.running.client() as client:
            for number in self.order[1:]:
                client.annotate(number, true_regions(self.tasks[number]))
        learnt = wait_for_run(self.store, self.running.project, "retrain", last, SECONDS)
        assert learnt.state == "done", learnt.reason
        wait_for_run(self.store, self.running.project, "score_pool", learnt.id, SECONDS)

    def see_labels_and_less_of_the_rest(self) -> None:
        rest = [task for number, task in self.tasks.items() if number not in self.order]
        with self.running.client() as client:
            after = shown(client, self.running.project, rest)
        right = sum(bool(kind) and kind == label for kind, label in after)
        assert right >= 0.8 * len(after)
        assert sum(not kind for kind, _ in after) < 0.5 * sum(not kind for kind, _ in self.before)
        self.driver.get(f"{self.running.url}/projects/{self.running.project}/data?labeling=1")
        wait_for(self.editor.regions, 60, "the masks of the next picture")
        assert any(labels and labels[0] in FRUIT for labels in self.editor.labels())
        assert len(self.editor.masks()) == len(self.editor.regions()), "each says how sure usam is"

    def go_on(self) -> None:
        self.editor.close_instructions()
        now = self.editor.task()
        self.editor.submit()
        wait_for(lambda: self.editor.task() not in (0, now), 60, "one more picture")


STEPS: dict[str, Callable[[Person], None]] = {
    "Open the printed Label Studio address, log in, and press *Label All Tasks*.": Person.begin_labelling,
    "Read the instructions and close them.": Person.read_the_instructions,
    "The masks of the picture ranked first are there, without labels.": Person.see_masks_without_labels,
    "Take the arrow, since Label Studio begins each picture with the brush, which would paint (V changes between the "
    "two).": Person.take_the_arrow,
    "Click a mask of fruit and press its label, *Orange* or *Lemon*.": Person.name_fruit,
    "Click a mask of anything else and press Backspace.": Person.delete_what_is_no_fruit,
    "Fruit without a mask: switch on *Auto-Annotation* and *Auto-Accept Suggestions* below the picture (once; your "
    "browser remembers), choose the label, then the pink *Auto-Detect* tool, and click the "
    "fruit.": Person.click_fruit_without_a_mask,
    "Pressed once more, the tool draws a box.": Person.draw_a_box,
    "Press *Submit*.": Person.submit,
    "The next picture comes.": Person.see_the_next_picture,
    "After ten pictures usam learns, and the others get new masks, which takes a minute or two.": Person.label_ten,
    "From then on, fruit has its label and how sure usam is of it, and most of what you deleted is not "
    "shown.": Person.see_labels_and_less_of_the_rest,
    "Go on: what is left is to look, correct and submit.": Person.go_on,
}
"""What the README says, and how it is done here. The nine pictures after the first are labelled through the API."""


def test_each_sentence_of_the_steps_is_done_here() -> None:
    assert steps_of(README.read_text(encoding="utf-8")) == list(STEPS)


@pytest.fixture
def running(tmp_path: Path, label_studio_program: Path, pytestconfig: pytest.Config) -> Iterator[Running]:
    """The demo, on a prepared database of Label Studio where there is one."""
    template = pytestconfig.cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}")  # type: ignore[union-attr]
    if (template / "complete").exists():
        shutil.copytree(template, tmp_path / "var" / "label-studio")
    stack = start(tmp_path / "var", None, label_studio_program)
    yield stack
    stop(stack.process)


@pytest.mark.e2e
@pytest.mark.timeout(1800)
@needs_chromium
def test_the_first_ten_minutes_are_as_the_readme_says(running: Running, browser: Any, screenshots: Path) -> None:
    person = Person(running, browser)
    try:
        for number, (sentence, do) in enumerate(STEPS.items(), 1):
            print(f"{number}. {sentence}", file=sys.stderr)
            do(person)
            browser.save_screenshot(str(screenshots / f"first-minutes-{number:02}.png"))
    finally:
        person.store.close()
