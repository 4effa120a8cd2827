"""What is marked and what is proposed and left unmarked teaches what a project wants, whatever people do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from backend.errors import StoreError
from backend.inference.model import ObjectLooks
from backend.label_studio.records import Annotation
from backend.learning.examples import (
    MarkedObject,
    join_examples,
    known_figures,
    learn_project,
    learnt_line,
    make_examples,
)
from backend.store.records import ExampleRow
from usam.checkpoints.registry import weights_of
from usam.predictor.object_features import describe_shapes

SIDE, VERSION = 32, f"object-features-1/{weights_of('nano-s')}/2x4"
CLASSES = ("cat", "dog")


def block(y: int, x: int, size: int = 8, side: int = SIDE) -> np.ndarray[Any, Any]:
    mask = np.zeros((side, side), bool)
    mask[y : y + size, x : x + size] = True
    return mask


def looks_of(kind: float) -> Any:
    """Looks of objects whose first features say `kind`, and noise."""

    def of(logits: np.ndarray[Any, Any], samscore: np.ndarray[Any, Any]) -> ObjectLooks:
        rng = np.random.default_rng(int(abs(kind) * 10) + len(logits))
        features = rng.normal(0, 0.2, (len(logits), 6))
        features[:, 0] += kind
        features[:, 1] += {1.0: 2.0, 3.0: -2.0}.get(kind, 0.0)
        return ObjectLooks(features.astype(np.float16), describe_shapes(logits, samscore), VERSION)

    return of


def example(
    number: int, kind: float, label: str, *, task: int | None = None, marked: bool = True, **given: Any
) -> ExampleRow:
    """An image with an object of a kind at its upper left, and something else that is proposed too."""
    masks = np.array([block(2, 2), block(20, 20)])
    logits = np.where(masks, 5.0, -5.0).astype(np.float32)
    wanted, other = looks_of(kind)(logits[:1], np.array([0.8])), looks_of(-3.0)(logits[1:], np.array([0.9]))
    looks = ObjectLooks(
        np.concatenate([wanted.features, other.features]), np.concatenate([wanted.shapes, other.shapes]), VERSION
    )
    drawn = [MarkedObject("r", label, block(4, 4, 16, 64), False)] if marked else []
    annotation = Annotation(number, number if task is None else task, "t", [])
    row = make_examples(annotation, drawn, (looks, masks), looks_of(kind), **given)
    assert row is not None
    return row


def taught(count: int = 12) -> list[ExampleRow]:
    return [example(n, 1.0 if n % 2 else 3.0, CLASSES[n % 2]) for n in range(count)]


def test_proposals_are_told_by_their_overlap_with_what_is_marked() -> None:
    found = join_examples([example(1, 1.0, "cat")])
    assert found.overlap.tolist() == [1.0, 0.0, 1.0]
    assert found.proposed.tolist() == [True, True, False]
    assert list(found.labels) == [("cat",), (), ("cat",)]
    assert list(found.images) == [1, 1, 1]
    assert found.regions[0] == found.regions[2] == "1/r"


def test_a_task_marked_empty_makes_its_proposals_unwanted() -> None:
    found = join_examples([example(1, 1.0, "", marked=False)])
    assert found.overlap.tolist() == [0.0, 0.0]
    assert list(found.labels) == [(), ()]


def test_where_only_a_part_is_marked_the_rest_teaches_nothing() -> None:
    found = join_examples([example(1, 1.0, "cat", marked_in_part=True)])
    assert found.overlap[0] == 1.0
    assert np.isnan(found.overlap[1])


def test_a_rectangle_is_compared_with_the_box_of_a_mask() -> None:
    ring = block(2, 2)
    ring[4:8, 4:8] = False
    logits = np.where(ring[None], 5.0, -5.0).astype(np.float32)
    looks = looks_of(1.0)(logits, np.array([0.8]))
    box = MarkedObject("r", "cat", block(4, 4, 16, 64), True)
    row = make_examples(Annotation(1, 1, "t", []), [box], (looks, ring[None]), looks_of(1.0))
    assert row is not None
    assert join_examples([row]).overlap[0] == 1.0


def test_what_is_wanted_and_what_it_is_called_is_learnt() -> None:
    learnt = learn_project(taught(), CLASSES, "nano-s", 0)
    assert learnt is not None
    assert learnt.selector is not None
    assert learnt.classifier is not None
    features = np.array([[1.0, 2, 0, 0, 0, 0], [3.0, -2, 0, 0, 0, 0], [-3.0, 0, 0, 0, 0, 0]])
    shapes = join_examples(taught()[:1]).shapes[[0, 0, 1]]
    wanted, classes = learnt.judge(features, shapes)
    assert wanted[0] > 0.5 > wanted[2]
    assert classes[0].argmax() == 1
    assert classes[1].argmax() == 0
    assert 0.5 <= known_figures(learnt)["class_accuracy"] <= 1
    assert "what is wanted" in learnt_line(learnt)
    assert "labels right" in learnt_line(learnt)


def test_labels_that_are_gone_teach_no_class_and_new_ones_are_unseen() -> None:
    learnt = learn_project(taught(), ("cat", "fox"), "nano-s", 0)
    assert learnt is not None
    assert learnt.unseen == ("fox",)
    assert learnt.selector is not None, "what was a dog is wanted still"


def test_several_annotators_of_an_image_are_one_image() -> None:
    rows = [example(1, 1.0, "dog", task=5), example(2, 1.0, "dog", task=5)]
    assert set(join_examples(rows).images) == {5}
    assert learn_project(rows, CLASSES, "nano-s", 0) is not None


@pytest.mark.parametrize(
    ("rows", "classes", "checkpoint"),
    [([], CLASSES, "nano-s"), (taught(2), (), "nano-s"), (taught(2), CLASSES, "nano-m")],
)
def test_nothing_is_learnt_from_nothing(rows: list[ExampleRow], classes: tuple[str, ...], checkpoint: str) -> None:
    assert learn_project(rows, classes, checkpoint, 0) is None


def test_one_class_with_one_example_does_no_harm() -> None:
    rows = [*taught(8), example(99, 6.0, "fox")]
    learnt = learn_project(rows, (*CLASSES, "fox"), "nano-s", 0)
    assert learnt is not None
    assert learnt.unseen == ()


def test_a_model_without_features_has_no_examples_and_damage_is_said() -> None:
    empty = ObjectLooks(np.zeros((0, 0), np.float16), np.zeros((0, 12), np.float32), "")
    made = make_examples(Annotation(1, 1, "t", []), [], (empty, np.zeros((0, SIDE, SIDE), bool)), None)
    assert made is None
    row = example(1, 1.0, "cat")
    with pytest.raises(StoreError, match="save these annotations again"):
        join_examples([ExampleRow(9, 9, "t", VERSION, row.arrays[:30])])


@pytest.mark.parametrize(
    "damage",
    [
        {"features": np.full((1, 3), 1, np.float16)},
        {"features": np.ones(1, np.float16)},
        {"features": np.zeros((0, 4), np.float16)},
        {"about": np.frombuffer(b'{"labels": null}', np.uint8)},
        {"shapes": None},
        "not finite",
    ],
    ids=str,
)
def test_one_damaged_row_harms_no_other(damage: Any) -> None:
    arrays = load(example(9, 1.0, "cat").arrays)
    damage = {"features": arrays["features"] * np.float16("nan")} if damage == "not finite" else damage
    arrays = {name: array for name, array in (arrays | damage).items() if array is not None}
    good = [example(number, 1.0, "cat") for number in (1, 2)]
    joined, alone = join_examples([ExampleRow(9, 9, "t", VERSION, save(arrays)), *good]), join_examples(good)
    assert (joined.images, joined.regions) == (alone.images, alone.regions)
    assert len(joined.features) == len(alone.features)
