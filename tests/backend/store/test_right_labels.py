"""What a person said of a label holds until its annotation changes, and no longer."""

from __future__ import annotations

import pytest

from backend.label_studio.records import Annotation
from backend.store import Store
from tests.factories import brush

PLACE = (7, "r1", "label")


@pytest.fixture(autouse=True)
def annotated(store: Store) -> None:
    record(store, "t1", brush("r1"))


def record(store: Store, at: str, *regions: object) -> None:
    store.record_annotation(1, Annotation(7, 70, at, list(regions)), [], sampled_for="k")  # type: ignore[arg-type]


def places(store: Store) -> list[tuple[int, str, str]]:
    return [(one.annotation, one.place, one.reason) for one in store.right_labels(1)]


def test_it_is_kept_with_who_and_when_and_can_be_said_twice(store: Store) -> None:
    store.put_right_labels(1, [PLACE], "ann")
    store.put_right_labels(1, [PLACE, (8, "r", "label")], "bob")
    (one,) = store.right_labels(1)
    assert (one.annotation, one.place, one.reason, one.who) == (*PLACE, "bob")
    assert one.at > 1.7e9
    assert store.right_labels(2) == []
    store.drop_right_labels(1, [(7, "r1", "outline")])
    assert places(store) == [PLACE]
    store.drop_right_labels(1, [PLACE])
    assert places(store) == []


def test_it_follows_what_is_marked_and_not_the_clock(store: Store) -> None:
    store.put_right_labels(1, [PLACE], "ann")
    record(store, "t2", brush("r1", meta={"text": ["seen"]}))
    assert places(store) == [PLACE], "touched, and left as it was"
    moved = brush("r1")
    moved["value"] = {**moved["value"], "brushlabels": ["other"]}
    record(store, "t3", moved)
    assert places(store) == []
    record(store, "t4", brush("r1"))
    assert places(store) == [PLACE], "changed back"
    record(store, "t5", brush("r1"), brush("r2"))
    assert places(store) == []
    store.put_right_labels(1, [(7, "r2", "label")], "ann")
    record(store, "t6", brush("r1"))
    assert places(store) == [], "what was said of another content was dropped"


def test_an_annotation_of_before_the_upgrade_is_known_by_its_time(store: Store) -> None:
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE annotations SET content = ''")
    store.put_right_labels(1, [PLACE], "ann")
    assert places(store) == [PLACE]
    record(store, "t2", brush("r1"))
    assert places(store) == []


def test_a_deleted_annotation_and_a_forgotten_project_take_it_along(store: Store) -> None:
    store.put_right_labels(1, [PLACE], "ann")
    store.delete_annotations(1, [7])
    assert places(store) == []
    store.forget(1)
    with store._read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM right_labels").scalar() == 0
