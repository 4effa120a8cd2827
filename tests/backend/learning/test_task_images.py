"""Which image a region becomes a sample of, where a task has several."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import FetchError
from backend.label_studio.records import Annotation
from backend.learning.task_images import TaskImages
from backend.settings import Settings
from backend.store.records import KnownTask

TWO_IMAGES = """<View><Image name="left" value="$a"/><Image name="right" value="$b"/>
<RectangleLabels name="l" toName="left"><Label value="x"/></RectangleLabels>
<RectangleLabels name="r" toName="right"><Label value="x"/></RectangleLabels></View>"""


class Encoded:
    """Stands for an encoded image: its samples say which image they are of."""

    count = 0

    def __init__(self, image: str) -> None:
        self.image = image
        Encoded.count += 1

    def samples(self, annotation: Annotation, drawn: list[Any]) -> tuple[list[Any], str]:
        return [(self.image, one.name) for one in drawn], ""


class Fetcher:
    def fetch_bytes(self, value: str, task: int) -> str:
        if value == "gone.jpg":
            raise FetchError("an image", "none", "look again")
        return value


@pytest.fixture(autouse=True)
def _encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskImages, "_annotated", Encoded)
    Encoded.count = 0


def box(name: str, to_name: str | None) -> dict[str, Any]:
    value = {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["x"]}
    return {"id": name, "type": "rectanglelabels", "to_name": to_name, "value": value}


def samples(task: TaskImages, *drawn: dict[str, Any]) -> tuple[Any, str]:
    return task.samples(Annotation(1, 7, "t", list(drawn)))


def images(**data: object) -> TaskImages:
    resources: Any = SimpleNamespace(images=Fetcher(), model=None)
    task: Any = SimpleNamespace(id=7, data={"a": "left.jpg", "b": "right.jpg"} | data)
    assert {"id", "data"} <= set(KnownTask.__dataclass_fields__)
    return TaskImages(resources, TWO_IMAGES, task)


def test_each_region_is_a_sample_of_the_image_it_lies_on_and_each_image_is_encoded_once() -> None:
    task = images()
    drawn = [box("1", "left"), box("2", "right"), box("3", None), box("4", "right")]
    rows, reason = samples(task, *drawn)
    assert sorted(rows) == [("left.jpg", "1"), ("left.jpg", "3"), ("right.jpg", "2"), ("right.jpg", "4")]
    samples(task, *drawn)
    assert (reason, Encoded.count, task.try_again) == ("", 2, False)


def test_an_image_that_cannot_be_had_leaves_the_other_and_is_tried_again() -> None:
    task = images(a="gone.jpg")
    rows, reason = samples(task, box("1", "left"), box("2", "right"))
    assert rows == [("right.jpg", "2")]
    assert "an image" in reason
    assert task.try_again


def test_a_region_on_no_image_of_ours_is_named() -> None:
    task = images()
    rows, reason = samples(task, box("1", "middle"), box("2", "right"), box("2", "right"))
    assert rows == [("right.jpg", "2")]
    assert "middle" in reason
    assert not task.try_again


def test_an_image_comes_with_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pixels, file = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    embedding = SimpleNamespace(image_hw=(4, 5))
    resources: Any = SimpleNamespace(
        model_with=lambda decoder: decoder, larger=None, embedding=lambda *_: embedding, settings=Settings()
    )
    task: Any = SimpleNamespace(id=7, data={})
    annotated = TaskImages(resources, TWO_IMAGES, task)._annotated(file.getvalue())
    assert annotated._pixels is not None
    np.testing.assert_array_equal(annotated._pixels(), pixels)
