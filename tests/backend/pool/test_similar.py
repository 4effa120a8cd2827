"""What looks like a marked object is found on the tasks that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import JobError
from backend.inference.model import ObjectLooks
from backend.jobs.sync import run as sync
from backend.label_studio.config import parse_config
from backend.label_studio.records import Annotation
from backend.learning.examples import MarkedObject, make_examples
from backend.pool.similar import find_like, like_predictions
from backend.resources import Resources
from tests.factories import HW, FakeModel, bright, kept_objects, label_config, resources
from usam.predictor.object_features import describe_shapes

VERSION = "object-features-1/test/4x4"
OTHER = np.zeros(HW, bool)
OTHER[30:44, 6:30] = True


def features(*kinds: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(sum(kinds))
    return 3 * np.eye(6)[list(kinds)] + rng.normal(0, 0.2, (len(kinds), 6))


def looks(*kinds: int) -> ObjectLooks:
    logits = np.full((len(kinds), 32, 32), -5.0, np.float32)
    logits[:, 4:12, 4:12] = 5.0
    return ObjectLooks(
        features(*kinds).astype(np.float16), describe_shapes(logits, np.ones(len(kinds), np.float32)), VERSION
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """Task 9 has a marked object of kind 0, a cat, and one of kind 1; of tasks 1 to 4 the first two show a cat."""
    opened = resources(tmp_path, FakeModel())
    studio: Any = opened.label_studio
    for number in (1, 2, 3, 4):
        studio.add_task(number)
    sync(opened, 1)
    for number in (1, 2, 3, 4):
        kinds = (0, 2) if number <= 2 else (3, 4)
        kept = kept_objects(bright(), OTHER, features=features(*kinds), version=VERSION)
        opened.store.put_proposal(1, kept.pack(number, "key", {}))
    marked = [MarkedObject("a", "cat", bright(), False), MarkedObject("b", "dog", OTHER, False)]
    annotation = Annotation(90, 9, "t", [])
    proposed = ObjectLooks(np.zeros((0, 6), np.float16), np.zeros((0, 12), np.float32), VERSION)
    row = make_examples(annotation, marked, (proposed, np.zeros((0, 32, 32), bool)), lambda *_: looks(0, 1))
    opened.store.record_annotation(1, annotation, [], sampled_for="k", examples=row)
    yield opened
    opened.store.close()


def test_what_looks_alike_is_found_and_named(place: Resources) -> None:
    found = find_like(place.store, 1, [9], label="cat", least=0.5)
    assert {(one.task, one.number) for one in found.objects} == {(1, 0), (2, 0)}
    assert (found.label, found.examples) == ("cat", 1)
    assert all(one.similarity > 0.5 for one in found.objects)
    config = label_config("cat", "dog")
    tasks = {task.id: task for task in place.store.tasks(1)}
    predictions = like_predictions(found, tasks, parse_config(config), place.settings, "nano-s+no-heads.similar")
    assert {one["task"] for one in predictions} == {1, 2}
    (region,) = predictions[0]["result"]
    assert region["value"]["brushlabels"] == ["cat"]
    assert "like what was marked" in region["meta"]["text"][0]


def test_of_an_object_s_parts_and_copies_the_most_alike_is_found(place: Resources) -> None:
    part = bright().copy()
    part[: part.shape[0] // 2] = False
    kept = kept_objects(part, bright(), bright(), OTHER, features=features(0, 0, 0, 0), version=VERSION)
    place.store.put_proposal(1, kept.pack(1, "key", {}))
    found = [one for one in find_like(place.store, 1, [9], label="cat", least=0.5).objects if one.task == 1]
    assert len(found) == 2
    assert 3 in {one.number for one in found}


def test_examples_of_several_labels_name_nothing(place: Resources) -> None:
    found = find_like(place.store, 1, [9], least=-1.0)
    assert (found.label, found.examples) == (None, 2)
    assert len(found.objects) == 8
    assert len(find_like(place.store, 1, [9], most=3).objects) <= 3


def test_what_is_missing_is_said(place: Resources) -> None:
    with pytest.raises(JobError, match="marked objects on task 4"):
        find_like(place.store, 1, [4])
    with pytest.raises(JobError, match="cat, dog"):
        find_like(place.store, 1, [9], label="fox")
    for number in (1, 2, 3, 4):
        place.store.put_proposal(1, kept_objects(bright()).pack(number, "key", {}))
    with pytest.raises(JobError, match="proposals"):
        find_like(place.store, 1, [9])
