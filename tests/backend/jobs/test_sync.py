"""What Label Studio has becomes what the store knows, whatever it is: one thing that cannot be used stays one thing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from backend.errors import FetchError, JobError
from backend.jobs.sync import SET_ASIDE_SHOWN, SyncReport, run, set_aside_line
from backend.label_studio.records import Annotation, Project, Task
from backend.learning.samples import sampling_key
from backend.resources import Resources
from backend.store.pseudo_label_store import with_provenance
from tests.backend.label_studio.test_video_config import VIDEO
from tests.backend.label_studio.test_video_regions import key, region
from tests.factories import (
    FakeLabelStudio,
    FakeModel,
    brush,
    label_config,
    picture,
    picture_address,
    png,
    resources,
)
from tests.unprivileged import bound_by_permissions
from usam.checkpoints.registry import weights_of

KEY = sampling_key("nano-s", "")
CHECKPOINT = weights_of("nano-s")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    opened = resources(tmp_path, FakeModel(), retrain_after=2)
    yield opened
    opened.store.close()


def studio(place: Resources) -> Any:
    return place.label_studio


def fake(part: Any) -> Any:
    return part


def sync(place: Resources) -> SyncReport:
    report = run(place, 1)
    assert report is not None
    return report


def relabelled(*labels: Any) -> dict[str, Any]:
    return {**brush()["value"], "brushlabels": list(labels)}


def test_labels_become_samples_once(place: Resources) -> None:
    studio(place).add_task(1, [brush("a"), brush("a", value=relabelled("other"))])
    studio(place).add_task(2)
    report = sync(place)
    assert (report.annotations, report.samples, report.broken) == (1, 1, 1), "the same shape twice is one object"
    assert [row.label for row in place.store.samples(1, CHECKPOINT)] == ["thing"]
    again = sync(place)
    assert (again.annotations, again.samples) == (0, 0)
    assert fake(place.model).encoded == 1


def test_skipped_empty_and_accepted_annotations_ask_for_no_image(tmp_path: Path) -> None:
    place = resources(tmp_path)
    studio(place).add_task(1, [], [with_provenance(brush(), "nano-s+no-heads.pseudo-1")])
    studio(place).annotation_list.append(Annotation(7, 1, "t", [brush()], cancelled=True))
    sync(place)
    reasons = {known.id: known.reason for known in place.store.annotations(1)}
    assert reasons == {
        100: "nothing is marked",
        101: "accepted by nano-s+no-heads.pseudo-1",
        7: "skipped by the annotator",
    }
    place.store.close()


def test_an_image_that_is_not_there_is_asked_for_again(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    fake(place.images).broken[1] = FetchError("an image", "404", "restore it")
    first = sync(place)
    assert (first.samples, first.broken) == (0, 1)
    fake(place.images).broken.clear()
    assert sync(place).samples == 1


def test_an_image_that_cannot_be_used_harms_no_other_task(place: Resources) -> None:
    for number in (1, 2):
        studio(place).add_task(number, [brush()])
    fake(place.images).broken[1] = OverflowError("int too large to convert to float")
    report = sync(place)
    assert (report.annotations, report.samples, report.broken) == (2, 1, 1)
    assert "OverflowError: int too large" in place.store.annotations(1)[0].reason


def test_jobs_are_asked_for_when_they_are_due(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    studio(place).add_task(2, [brush()])
    assert sync(place).waked == ("retrain",), "two labels are new, and nothing is left to rank"
    place.store.add_events([(1, "START_TRAINING", [])])
    sync(place)
    assert place.store.open_events(1) == []
    assert fake(place.queue).waked == ["retrain", "retrain"]


def test_a_damaged_record_of_accepted_masks_stops_no_label(place: Resources) -> None:
    record = place.settings.data_dir / "pseudo_labels" / "1" / "4" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    studio(place).add_task(1, [brush()])
    assert sync(place).samples == 1
    assert place.store.runs(1, "sync")[0].state == "done"


def test_records_of_accepted_masks_that_cannot_be_read_stop_no_label(place: Resources) -> None:
    (place.settings.data_dir / "pseudo_labels").mkdir(mode=0o000)
    (place.settings.data_dir / "absent").mkdir(mode=0o500)
    for number in (1, 2):
        studio(place).add_task(number, [brush()])
    assert bound_by_permissions(lambda: sync(place)).waked == ("retrain",)
    assert place.store.runs(1, "sync")[0].state == "done"


def test_what_is_deleted_there_is_deleted_here(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    sync(place)
    studio(place).annotation_list.clear()
    studio(place).task_list.clear()
    studio(place).add_task(1)
    sync(place)
    assert place.store.annotations(1) == []
    assert place.store.samples(1, CHECKPOINT) == []


def test_a_project_that_is_missing_is_kept_for_now(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    sync(place)
    studio(place).missing = True
    assert run(place, 1) is None
    assert place.store.runs(1, "sync")[0].state == "skipped"
    assert len(place.store.samples(1, CHECKPOINT)) == 1


def test_counts_that_differ_and_samples_of_another_model_are_looked_at(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    studio(place).add_task(2, [brush()])
    sync(place)
    assert place.store.miscounted_tasks(1, KEY) == set()
    assert place.store.miscounted_tasks(1, "another") == {1, 2}
    place.store.delete_annotations(1, [200])
    assert place.store.miscounted_tasks(1, KEY) == {2}


def test_numbers_no_store_can_hold_are_named_and_the_rest_goes_on(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    studio(place).add_task(10**30, [brush()])
    studio(place).add_task(-1, [brush()])
    studio(place).annotation_list.append(Annotation(2**63, 1, "t", [brush()]))
    report = sync(place)
    assert report.samples == 1
    assert sorted(line.partition(":")[0] for line in report.set_aside) == [
        "annotation 9223372036854775808 of task 1",
        "task -1",
        f"task {10**30}",
    ]
    record = place.store.runs(1, "sync")[0]
    assert record.state == "done"
    assert record.reason.startswith("3 set aside: ")
    assert record.details["set_aside"] == list(report.set_aside)


def test_a_long_list_is_cut_and_says_so() -> None:
    assert set_aside_line([]) == ""
    items = [f"task {number}" for number in range(SET_ASIDE_SHOWN + 2)]
    assert set_aside_line(items).endswith("; and 2 more")


HOSTILE: list[tuple[str, list[Any]]] = [
    ("two regions with one id", [brush("same"), brush("same")]),
    ("ids alike in their first 80 characters", [brush("x" * 80 + "1"), brush("x" * 80 + "2")]),
    ("no id after one called 1", [brush("1"), {**brush(), "id": None}]),
    ("an id that is a number of 400 digits", [{**brush(), "id": 10**400}]),
    ("NUL in an id", [brush("a\0b")]),
    ("a lone surrogate in an id", [brush("\ud800")]),
    ("a lone surrogate in a label", [brush(value=relabelled("\ud800"))]),
    ("sizes of 400 digits", [brush(original_width=10**400)]),
    ("a turn of 400 digits", [brush(image_rotation=10**400)]),
    ("a value that is a list", [brush(value=[1])]),
    ("a type that is a number", [brush(type=7)]),
    ("meta that is text", [brush(meta="x")]),
]


@pytest.mark.parametrize(("name", "result"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_a_bad_annotation_harms_no_other(place: Resources, name: str, result: list[Any]) -> None:
    studio(place).add_task(1, result, [brush("good")])
    studio(place).add_task(2, [brush("good")])
    assert sync(place).annotations == 3
    stored = [(row.annotation, row.region) for row in place.store.samples(1, CHECKPOINT)]
    assert {(101, "good"), (200, "good")} <= set(stored)
    (bad,) = [known for known in place.store.annotations(1) if known.id == 100]
    used = sum(annotation == 100 for annotation, _ in stored)
    assert bad.reason or used or "type" in name, "used, or not used with a reason"


leaves = (
    some.none()
    | some.booleans()
    | some.integers(-(10**400), 10**400)
    | some.floats()
    | some.text(max_size=4)
    | some.sampled_from(["\ud800", "a\0b", "x" * 300, math.nan, 10**400, -1, 50])
)
anything = some.recursive(
    leaves,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
kinds = some.sampled_from(
    ["brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "bitmask", "brush", "choices", "", 3, None]
)
LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "labels")
NUMBERS = ("x", "y", "width", "height", "radiusX", "radiusY", "rotation")
values = anything | some.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NUMBERS, leaves),
        **dict.fromkeys((*LABELS, "points", "rle", "imageDataURL"), anything),
        "format": some.sampled_from(["rle", "x"]),
    },
)
regions = some.fixed_dictionaries(
    {"type": kinds},
    optional={
        **dict.fromkeys(("original_width", "original_height", "image_rotation"), leaves),
        **dict.fromkeys(("id", "from_name", "to_name", "meta"), anything),
        "value": values,
    },
)


@pytest.fixture(scope="module")
def hostile_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resources]:
    opened = resources(tmp_path_factory.mktemp("hostile"), FakeModel())
    yield opened
    opened.store.close()


@given(some.lists(regions, max_size=4), some.integers(1, 2**70), anything)
@hypothesis_settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_no_annotation_stops_a_project(hostile_place: Resources, result: list[Any], number: int, address: Any) -> None:
    place = hostile_place
    place.store.forget(1)
    place.label_studio = FakeLabelStudio()  # type: ignore[assignment]
    studio(place).add_task(1, [brush("good")])
    data = {"image": address, "more": [address]}
    studio(place).task_list.append(Task.read({"id": 2, "data": data, "total_annotations": 1, "updated_at": "t"}))
    studio(place).annotation_list.append(Annotation(number, 2, "t", result))
    report = sync(place)
    assert [row.region for row in place.store.samples(1, CHECKPOINT) if row.task == 1] == ["good"]
    stored = {known.id for known in place.store.annotations(1)}
    assert number in stored or any(str(number)[:40] in line for line in report.set_aside)


class Waking:
    """A queue that takes jobs, or does not."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.answers = True

    def wake(self, project: int, job: str, **_: Any) -> bool:
        self.jobs.append(job)
        return self.answers


def of_videos(place: Resources, config: str = VIDEO) -> Waking:
    queue = Waking()
    place.queue = fake(queue)
    studio(place).known = Project.read({"id": 1, "label_config": config})
    return queue


def test_boxes_on_videos_are_followed_and_teach_nothing(place: Resources) -> None:
    queue = of_videos(place)
    studio(place).add_task(1, [region(key(1))])
    queue.answers = False
    sync(place)
    queue.answers = True
    report = sync(place)
    assert (report.waked, report.annotations, queue.jobs) == (("track",), 0, ["track", "track"])
    sync(place)
    assert queue.jobs == ["track", "track"], "what did not change is not followed again"
    assert list(place.store.annotations(1)) == []
    assert place.store.runs(1, "sync")[0].state == "done"


def test_images_beside_videos_are_learnt_from_as_ever(place: Resources) -> None:
    queue = of_videos(place, VIDEO.replace("</View>", "") + label_config("thing").replace("<View>", ""))
    studio(place).add_task(1, [brush()])
    assert sync(place).samples == 1
    assert "track" in queue.jobs


def test_an_annotation_on_another_image_than_before_is_sampled_anew_and_is_no_new_label(place: Resources) -> None:
    studio(place).add_task(1, [brush()])
    studio(place).add_task(2, [brush()])
    sync(place)
    place.store.mark_labels_used(1, 1, [100, 200])
    before = [row.annotation for row in place.store.samples(1, CHECKPOINT)]
    other = {"image": picture_address(7, (96, 128))}
    fake(place.images).files[2] = png(picture(7, (96, 128)))
    later = "2026-01-02T00:00:00.000000Z"
    studio(place).task_list[1] = replace(studio(place).task_list[1], data=other, updated_at=later)
    report = sync(place)
    assert (report.annotations, report.samples, report.broken) == (1, 0, 1)
    assert before == [100, 200]
    assert [row.annotation for row in place.store.samples(1, CHECKPOINT)] == [100], "none of the earlier image"
    assert "image of 128 x 96" in place.store.annotations(1)[1].reason
    assert sync(place).annotations == 0, "once"
    studio(place).task_list[1] = replace(
        studio(place).task_list[1], data={"image": picture_address(8)}, updated_at="2026-01-03T00:00:00.000000Z"
    )
    fake(place.images).files[2] = png(picture(8))
    assert sync(place).samples == 1
    assert (place.store.new_labels(1), len(place.store.samples(1, CHECKPOINT))) == (0, 2)


def test_another_project_under_the_number_of_a_known_one_is_not_worked_on(place: Resources) -> None:
    studio(place).known = Project.read({"id": 1, "label_config": label_config(), "created_at": "2026-01-01T00:00:00Z"})
    studio(place).add_task(1, [brush()])
    sync(place)
    studio(place).known = replace(studio(place).known, stamp="2026-02-02T00:00:00Z")
    with pytest.raises(JobError, match="another one under its number"):
        run(place, 1)
    assert (place.store.projects(), place.store.samples(1, CHECKPOINT)) == ([], [])
    (told,) = place.store.runs(1, "sync")
    assert told.state == "failed"
    assert "usam-backend connect --project 1" in told.reason


@pytest.mark.parametrize("content", [b"\x00\xff{garbage", b""])
def test_a_pointer_lost_with_its_copy_stops_no_label_and_is_said(place: Resources, content: bytes) -> None:
    studio(place).add_task(1, [brush()])
    sync(place)
    folder = place.settings.registry_dir / "1"
    folder.mkdir(parents=True)
    for name in ("champion.json", "champion.json.copy"):
        (folder / name).write_bytes(content)
    for number in (2, 3):
        studio(place).add_task(number, [brush()])
    place.store.add_events([(1, "START_TRAINING", [])])
    report = sync(place)
    assert (report.annotations, report.samples, report.waked) == (2, 2, ())
    assert len(place.store.samples(1, CHECKPOINT)) == 3
    assert "champion.json" in place.store.runs(1, "sync")[0].reason
    assert "usam-backend repair" in place.store.runs(1, "sync")[0].reason
    assert len(place.store.open_events(1)) == 1, "the training that was asked for is not forgotten"
    place.registry.repair(1)
    assert sync(place).waked == ("retrain",)
    assert place.store.runs(1, "sync")[0].reason == ""


def test_a_task_whose_annotations_label_studio_cannot_tell_stops_no_other_and_loses_nothing(place: Resources) -> None:
    for number in (1, 2):
        studio(place).add_task(number, [brush()])
    sync(place)
    studio(place).untold.add(1)
    studio(place).add_task(3, [brush()])
    studio(place).annotation_list[0] = Annotation(100, 1, "2026-01-02T00:00:00.000000Z", [brush()])
    studio(place).task_list[0] = replace(studio(place).task_list[0], updated_at="2026-01-02T00:00:00.000000Z")
    place.store.record_tasks(1, [studio(place).task_list[0]])
    report = sync(place)
    assert report.annotations == 1
    assert [line.partition(":")[0] for line in report.set_aside] == ["task 1", "annotations of task 1"]
    assert [row.annotation for row in place.store.samples(1, CHECKPOINT)] == [100, 200, 300]
    studio(place).untold.clear()
    assert sync(place).annotations == 1, "once it can be told again"
