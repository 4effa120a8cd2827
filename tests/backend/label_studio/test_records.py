"""What Label Studio answers is read with what is missing left empty, and refused where it could not be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.errors import LabelStudioError
from backend.label_studio.records import (
    MAX_ID,
    Annotation,
    MlBackend,
    Prediction,
    Project,
    ServedTask,
    Task,
    View,
    Webhook,
    is_text,
    number,
)

READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "project": Project.read,
    "task": Task.read,
    "annotation": lambda item: Annotation.read(item, 1),
    "prediction": lambda item: Prediction.read(item, 1),
    "served task": ServedTask.read,
    "view": View.read,
    "webhook": Webhook.read,
    "backend": MlBackend.read,
}
NULLS = dict.fromkeys(
    ("title", "label_config", "data", "result", "score", "predictions", "headers", "actions", "updated_at", "queue")
)


@pytest.mark.parametrize("kind", READERS)
def test_nulls_and_missing_fields_read_alike(kind: str) -> None:
    assert READERS[kind]({"id": 3}) == READERS[kind]({"id": 3, **NULLS})
    assert READERS[kind]({"id": 3}).id == 3


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("item", [{}, {"id": None}, {"id": "3"}, {"id": True}, {"id": -1}, {"id": MAX_ID + 1}])
def test_an_item_without_an_id_that_can_be_kept_is_refused(kind: str, item: dict[str, Any]) -> None:
    with pytest.raises(LabelStudioError, match="id"):
        READERS[kind](item)


@pytest.mark.parametrize("value", [0, 1, MAX_ID])
def test_whole_numbers_that_can_be_stored_are_taken(value: int) -> None:
    assert number(value, "count") == value


def test_a_refused_number_is_named_and_not_shown_at_length() -> None:
    with pytest.raises(LabelStudioError, match="a task_number from 0") as caught:
        number("9" * 5000, "task_number")
    assert len(str(caught.value)) < 300


def test_a_project_shows_predictions_and_wants_one_annotation_unless_it_says_otherwise() -> None:
    plain = Project.read({"id": 1})
    assert (plain.shows_predictions, plain.maximum_annotations, plain.evaluates_by_itself) == (True, 1, False)
    told = Project.read({"id": 1, "show_collab_predictions": False, "maximum_annotations": 3, "created_at": "then"})
    assert (told.shows_predictions, told.maximum_annotations, told.stamp) == (False, 3, "then")
    assert Project.read({"id": 1, "created_at": "a\0b"}).stamp == "", "no store could hold it"
    assert len(Project.read({"id": 1, "created_at": "2" * 100}).stamp) == 40


def test_junk_among_regions_is_left_out() -> None:
    item = {"id": 1, "result": [{"id": "a"}, None, 3, "x", {"id": "b"}]}
    for read in (Annotation.read, Prediction.read):
        record = read(item, 5)
        assert [region["id"] for region in record.result] == ["a", "b"]
        assert record.task == 5


def test_a_skipped_answer_is_cancelled() -> None:
    assert Annotation.read({"id": 1, "was_cancelled": True}, 5).cancelled
    assert not Annotation.read({"id": 1}, 5).cancelled


@pytest.mark.parametrize(
    ("score", "expected"), [(0.5, 0.5), (0, 0.0), (None, None), ("0.5", None), (1e300, None), (float("nan"), None)]
)
def test_a_score_that_is_no_finite_number_is_not_known(score: object, expected: float | None) -> None:
    assert Prediction.read({"id": 1, "score": score}, 5).score == expected


@pytest.mark.parametrize(("queue", "locked"), [("Task lock", True), ("Uncertainty sampling", False), (None, False)])
def test_a_task_served_for_its_lock_says_nothing_about_the_order(queue: str | None, locked: bool) -> None:
    assert ServedTask.read({"id": 1, "queue": queue}).locked is locked


def test_a_secret_in_a_webhooks_headers_is_not_shown() -> None:
    webhook = Webhook.read({"id": 1, "url": "http://x", "headers": {"X-Secret": "hush"}, "actions": ["A"]})
    assert webhook.headers == {"X-Secret": "hush"}
    assert webhook.actions == ("A",)
    assert "hush" not in repr(webhook)


def test_a_tab_without_data_has_no_title() -> None:
    assert View.read({"id": 1, "data": {"title": "Doubtful"}}).title == "Doubtful"
    assert View.read({"id": 1, "data": ["title"]}) == View(1, "", {})


@pytest.mark.parametrize(
    ("given", "lead", "who"),
    [
        ({"lead_time": 3.5, "completed_by": 4}, 3.5, 4),
        ({"lead_time": 3, "completed_by": {"id": 4, "email": "a"}}, 3.0, 4),
        ({"lead_time": -1, "completed_by": "me"}, None, None),
        ({"lead_time": 10**400, "completed_by": 2**70}, None, None),
        ({}, None, None),
    ],
)
def test_time_and_annotator_are_read_where_they_make_sense(
    given: dict[str, Any], lead: float | None, who: int | None
) -> None:
    read = Annotation.read({"id": 1, "result": [], **given}, 2)
    assert (read.lead_s, read.annotator) == (lead, who)


def test_the_digest_of_an_annotation_is_of_what_is_marked() -> None:
    one, two = ({"id": name, "type": "brush", "value": {"rle": [1, 2], "labels": ["A"]}} for name in "ab")
    digest = Annotation(1, 2, "t", [one, two]).content
    assert digest == Annotation(9, 2, "later", [{**two, "meta": {"text": "x"}, "score": 0.5}, one]).content
    assert len(digest) == 40
    for other in ([one], [one, {**two, "value": {"rle": [1, 3], "labels": ["A"]}}], [one, {**two, "id": "c"}], []):
        assert Annotation(1, 2, "t", other).content != digest
    assert Annotation(1, 2, "t", [{"value": {"\ud800": float("nan")}}]).content


@pytest.mark.parametrize("moment", [None, 5, [], "\ud800", "a\0", "\u0663"])
def test_a_time_that_no_store_could_hold_is_none(moment: object) -> None:
    assert Task.read({"id": 1, "updated_at": moment}).updated_at == ""
    assert Annotation.read({"id": 1, "updated_at": moment}, 1).updated_at == ""


@pytest.mark.parametrize(("given", "whole"), [("", True), ("äß犬\U0001f415", True), ("a\ud800", False), ("a\0", False)])
def test_text_is_what_every_database_keeps(given: str, whole: bool) -> None:
    assert is_text(given) is whole
