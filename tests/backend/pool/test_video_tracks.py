"""Boxes of a project's videos are followed once, old predictions of ours make room, and a bad task stops no other."""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from backend.errors import LabelConfigError, LabelStudioError, RegionError
from backend.label_studio.records import Project, Task
from backend.label_studio.video_config import parse_video_config
from backend.label_studio.video_regions import boxes_of
from backend.pool import video_tracks
from backend.pool.video_tracks import VideoFollower, read_task, serve_version
from backend.settings import Settings
from tests.backend.label_studio.test_video_config import IMAGE, VIDEO
from tests.backend.label_studio.test_video_regions import key, region
from tests.usam.small_sam2 import remembering, seeing
from tests.usam.test_videos import write_video
from usam.masks.overlap import paired_iou
from usam.predictor.tracking import MaskTracker
from usam.videos import Video

CONFIG = VIDEO.replace('"25"', '"10"')


class Copy:
    """What Label Studio keeps of a project of videos."""

    def __init__(self, *tasks: dict[str, Any], config: str = CONFIG) -> None:
        self.items = {item["id"]: {"predictions": [], "drafts": [], "annotations": [], **item} for item in tasks}
        self.kept = Project(3, "videos", config, "", "Sequential sampling", "s")
        self.deleted: list[int] = []
        self._next = 100

    def project(self, project: int) -> Project:
        return self.kept

    def tasks(self, project: int) -> Iterator[Task]:
        return (Task.read(item) for item in self.items.values())

    def selected_tasks(self, project: int, numbers: Sequence[int], include: str) -> Iterator[dict[str, Any]]:
        return (self.items[number] for number in numbers if number in self.items)

    def import_predictions(self, project: int, predictions: list[dict[str, Any]]) -> int:
        for one in predictions:
            self._next += 1
            self.items[one["task"]]["predictions"].append(one | {"id": self._next})
        return len(predictions)

    def delete_prediction(self, number: int) -> None:
        self.deleted.append(number)
        for item in self.items.values():
            item["predictions"] = [one for one in item["predictions"] if one["id"] != number]

    def model_versions(self, project: int) -> dict[str, int]:
        found = [one["model_version"] for item in self.items.values() for one in item["predictions"]]
        return {name: found.count(name) for name in found}

    def set_model_version(self, project: int, version: str) -> None:
        self.kept = Project(3, "videos", self.kept.label_config, version, "Sequential sampling", "s")

    def of(self, task: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.items[task]["predictions"]
        return found


def square(number: int) -> tuple[float, float, float, float]:
    """In percent of a frame of 96 pixels."""
    left = 10 + 2 * number
    return left / 0.96, 30 / 0.96, (left + 32) / 0.96, 62 / 0.96


def box(frame: int = 1, **more: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = square(frame - 1)
    place = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    made = region(key(frame) | place, **more)
    del made["value"]["framesCount"]
    return made


@pytest.fixture(scope="module")
def predictor() -> Any:
    return remembering()


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    return {"video": uri(write_video(tmp_path / "a.mp4").read_bytes())}


def uri(content: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(content).decode()


def follower(
    client: Copy, predictor: Any, seconds: float | None = None, heads: str = "h1", model: str = "nano-m"
) -> VideoFollower:
    settings, label_studio = Settings(model=model), client
    loaded = lambda: predictor  # noqa: E731
    return VideoFollower(label_studio, settings, client.kept, heads, loaded, seconds=seconds)  # type: ignore[arg-type]


def annotated(number: int, data: Any, *regions: Any) -> dict[str, Any]:
    return {"id": number, "data": data, "annotations": [{"id": number, "result": list(regions)}]}


def test_a_box_is_followed_once_and_again_when_it_is_redrawn(predictor: Any, data: dict[str, str]) -> None:
    client = Copy(annotated(1, data, box(2)), {"id": 2, "data": data}, annotated(3, data, region(key(1), key(9))))
    done = follower(client, predictor).run()
    assert ([one.task for one in done.tasks], done.waiting, done.finished, done.set_aside) == ([1], [2], [3], {})
    (prediction,) = client.of(1)
    assert prediction["model_version"] == "nano-m+h1.followed"
    boxes = boxes_of(prediction["result"][0]["value"]["sequence"], 12)
    assert np.isnan(boxes[0]).all()
    assert paired_iou(boxes[1:], [square(number) for number in range(1, 12)]).mean() > 0.75
    assert prediction["score"] == done.tasks[0].score == min(prediction["result"][0]["meta"]["confidence"])

    again = follower(client, predictor).run()
    assert (again.tasks, again.unchanged, client.deleted) == ([], [1], [])

    client.items[1]["annotations"][0]["result"] = [box(3)]
    redrawn = follower(client, predictor).run()
    assert [one.task for one in redrawn.tasks] == [1]
    assert client.deleted == [prediction["id"]]
    assert client.of(1)[0]["result"][0]["value"]["sequence"][0]["frame"] == 3


def test_other_heads_follow_again_and_other_predictions_stay(predictor: Any, data: dict[str, str]) -> None:
    client = Copy(annotated(1, data, box(1)))
    client.items[1]["predictions"] = [{"id": 7, "model_version": "somebody's", "result": [], "score": 0.5}]
    follower(client, predictor).run()
    follower(client, predictor, heads="h2").run()
    assert [one["model_version"] for one in client.of(1)] == ["somebody's", "nano-m+h2.followed"]


def test_a_sam_2_project_is_followed_by_video_memory_and_what_was_followed_otherwise_once_more(
    data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskTracker, "begin", lambda *_, **__: pytest.fail("by the box before"))
    client, sam2 = Copy(annotated(1, data, box(2))), seeing()
    client.items[1]["predictions"] = [{"id": 7, "model_version": "sam2.1_hiera_tiny+h1.followed", "result": []}]
    done = follower(client, sam2, model="sam2.1_hiera_tiny").run()
    assert ([one.task for one in done.tasks], done.set_aside, client.deleted) == ([1], {}, [7])
    (prediction,) = client.of(1)
    assert prediction["model_version"] == "sam2.1_hiera_tiny+h1.memory.followed"
    assert len(prediction["result"][0]["meta"]["confidence"]) == 11
    assert follower(client, sam2, model="sam2.1_hiera_tiny").run().unchanged == [1]


def test_two_boxes_of_two_people_and_a_draft_that_stands_in(predictor: Any, data: dict[str, str]) -> None:
    task = annotated(1, data, box(1, name="mine"))
    task["annotations"].append({"id": 5, "result": [box(1, name="the same box")]})
    task["annotations"].append({"id": 6, "result": [box(2, name="skipped")], "was_cancelled": True})
    task["annotations"].append({"id": 8, "result": [box(3, name="before the draft")]})
    task["drafts"] = [{"id": 1, "annotation": 8, "result": [box(4, name="draft")]}]
    client = Copy(task)
    follower(client, predictor).run()
    (prediction,) = client.of(1)
    assert [one["value"]["sequence"][0]["frame"] for one in prediction["result"]] == [1, 4]


def test_a_part_and_what_a_person_bounded(predictor: Any, data: dict[str, str]) -> None:
    bounded = box(1)
    bounded["value"]["sequence"].append(key(6, enabled=False))
    client = Copy(annotated(1, data, box(3)), annotated(2, data, bounded))
    done = follower(client, predictor, seconds=0.4).run()
    assert [(one.task, one.frames) for one in done.tasks] == [(1, 5), (2, 5)]
    done = follower(client, predictor).run([2])
    assert [(one.task, one.frames) for one in done.tasks] == [(2, 6)]


def test_a_rate_that_is_not_the_file_s(predictor: Any, data: dict[str, str]) -> None:
    """The file has 12 frames at 10 a second; the editor counts 24 at 20."""
    client = Copy(annotated(1, data, box(1)), config=CONFIG.replace('"10"', '"20"'))
    follower(client, predictor).run()
    value = client.of(1)[0]["result"][0]["value"]
    assert (value["framesCount"], value["duration"]) == (24, 1.2)
    boxes = boxes_of(value["sequence"], 24)
    assert paired_iou(boxes, [square(number // 2) for number in range(24)]).mean() > 0.75


def test_what_cannot_be_used_is_set_aside_by_name(
    predictor: Any, data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = uri(write_video(tmp_path / "b.mp4").read_bytes()[:300])
    client = Copy(
        annotated(1, {"video": cut}, box()),
        annotated(2, {"image": "a.png"}, box()),
        annotated(3, data, region(key(-4))),
        annotated(4, data, box(500)),
        annotated(5, {"video": "ftp://host/a.mp4"}, box()),
        annotated(6, data, box()),
    )
    done = follower(client, predictor).run([1, 2, 3, 4, 5, 6, 99])
    reasons = {number: reason.partition("; ")[0] for number, reason in done.set_aside.items()}
    assert reasons == {
        1: "expected a video with frames, got none in its file",
        2: "expected the address of a video in the task's data under `video`, got nothing",
        3: "region r1: expected a key frame from 1 to 1000000, got -4",
        4: "expected a box on one of 12 frames, got frame 500",
        5: "expected an http(s), s3, gs or data: address, or a path of Label Studio, got 'ftp://host/a.mp4'",
        99: "project 3 has no such task",
    }
    assert [one.task for one in done.tasks] == [6]

    monkeypatch.setattr(video_tracks, "LONGEST_S", 1.0)
    client.items[6]["predictions"] = []
    assert "expected at most 0 minutes of video" in follower(client, predictor).run([6]).set_aside[6]
    assert follower(client, predictor, seconds=0.5).run([6]).tasks, "a part of a long video is followed"


def test_a_box_that_cannot_be_used_harms_no_other_of_its_task(predictor: Any, data: dict[str, str]) -> None:
    bad = [region(key(3, x=float("nan")), name="nan"), region(key(500), name="late"), region(key(2, x=150), name="out")]
    client = Copy(annotated(1, data, *bad, box(1, name="good")))
    client.items[1]["drafts"] = 5
    done = follower(client, predictor).run()
    (prediction,) = client.of(1)
    assert len(prediction["result"]) == 1
    assert [part.partition(":")[0] for part in done.left_out[1].split("; ") if part.startswith("region")] == [
        "region nan",
        "region late",
        "region out",
    ]
    again = follower(client, predictor).run()
    assert (again.unchanged, again.tasks) == ([1], []), "what cannot be followed is not tried each time"


def test_a_prediction_that_is_refused_stops_no_other_task(
    predictor: Any, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task was deleted while the video was looked at."""
    client = Copy(annotated(1, data, box()), annotated(2, data, box()))
    taken = client.import_predictions

    def refuse(project: int, predictions: list[dict[str, Any]]) -> int:
        if predictions[0]["task"] == 1:
            raise LabelStudioError("success", "HTTP 400", "check the request", status=400)
        return taken(project, predictions)

    monkeypatch.setattr(client, "import_predictions", refuse)
    done = follower(client, predictor).run()
    assert ([one.task for one in done.tasks], list(done.set_aside)) == ([2], [1])


def test_a_count_far_from_the_file_s_is_not_believed(predictor: Any, data: dict[str, str]) -> None:
    drawn = box()
    drawn["value"]["framesCount"] = 900_000
    client = Copy(annotated(1, data, drawn))
    follower(client, predictor).run()
    assert client.of(1)[0]["result"][0]["value"]["framesCount"] == 12


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", 40, "expected a video with frame 40, got one that ends after 12"),
        ("width", 48, "frames of 48 x 96 pixels throughout"),
    ],
)
def test_a_video_that_is_not_as_it_says(
    predictor: Any, data: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, value: int, said: str
) -> None:
    honest = Video.__init__

    def lying(self: Video, path: Path) -> None:
        honest(self, path)
        setattr(self, name, value)

    monkeypatch.setattr(Video, "__init__", lying)
    done = follower(Copy(annotated(1, data, box())), predictor).run()
    assert said in done.set_aside[1]


def test_the_model_is_not_loaded_for_nothing(data: dict[str, str]) -> None:
    def load() -> Any:
        raise AssertionError("loaded")

    client: Any = Copy({"id": 1, "data": data})
    done = VideoFollower(client, Settings(), client.kept, "h1", load).run()
    assert done.waiting == [1]


def test_a_project_without_videos_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="a Video tag with VideoRectangle on it"):
        follower(Copy(config=f"<View>{IMAGE}</View>"), None)


def test_the_version_is_served_where_images_have_no_order_of_their_own(predictor: Any, data: dict[str, str]) -> None:
    both = CONFIG.replace("</View>", IMAGE + "</View>")
    for config, is_served in ((CONFIG, True), (both, False)):
        client: Any = Copy(annotated(1, data, box()), config=config)
        one = follower(client, predictor)
        assert not serve_version(client, client.kept, one.version), "nothing has it yet"
        one.run()
        assert serve_version(client, client.kept, one.version) is is_served
        assert client.kept.model_version == (one.version if is_served else "")


ODD = [None, True, -1, 0.5, 10**30, 10**400, math.nan, math.inf, 1e308, "", "\ud800", "a\0b", "7", [], {}, [[]], [None]]
ODD += [{"a": 1}, [math.nan] * 4, "x" * 5000, 5, 1_000_000, -(2**63)]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a value of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield (*above, name)
        yield from places(one, (*above, name))


def video_task() -> dict[str, Any]:
    """Two boxes of one person, one of another, and a prediction of ours."""
    ours = {"id": 7, "model_version": "nano-m+h1.followed", "result": [{"id": "a", "meta": {"left_out": ["b"]}}]}
    item = annotated(2, {"video": "v"}, box(2), box(3)) | {"predictions": [ours], "drafts": []}
    item["annotations"].append({"id": 9, "result": [box(4, name="good")]})
    return item


KEPT = {("id",), ("annotations",)}
PLACES = [place for place in places(video_task()) if place not in KEPT and place[:2] != ("annotations", 1)]


@given(some.sampled_from(PLACES), some.sampled_from(ODD))
@hypothesis_settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_a_task_holds_its_other_boxes_are_read(place: tuple[Any, ...], odd: Any) -> None:
    """Anything in place of anything: no task raises, and what is taken for a box is one."""
    item: Any = video_task()
    *above, last = place
    holder = functools.reduce(operator.getitem, above, item)
    holder[last] = odd
    task = read_task(item, parse_video_config(CONFIG))
    assert any(one.id == "good" for one in task.boxes)
    for one in task.boxes:
        one.key("v")
        with contextlib.suppress(RegionError):
            corners = one.pixels(96, 96)
            assert ((corners >= 0) & (corners <= 96)).all()
    assert all(isinstance(name, str) for one in task.ours for name in video_tracks._names_in(one))
