"""Doubt about labels, by heads that have not learnt from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from usam.errors import TrainingError
from usam.objects.outline_copies import COPIES
from usam.objects.outlines import OUTLINE_NAMES
from usam.objects.project_heads import Examples
from usam.objects.review import box_of_shape, class_probabilities, review_labels
from usam.predictor.object_features import SHAPE_NAMES

CLASSES = ("cat", "dog")
WIDTH = 16
COUNT = 80
AGREEMENT = 0.8


def project(labels: dict[int, str] | None = None, gone: tuple[int, ...] = ()) -> Examples:
    """80 objects, two an image, cats and dogs in turn: of each a candidate, and a person's region unless it is `gone`;
    beside them, what nobody wants. `labels` are given in place of the right ones."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, WIDTH))
    rows: list[tuple[int, int, bool]] = []
    for k in range(COUNT):
        rows += [(k, k % 2, True), (k, 2, True)]
        rows += [] if k in gone else [(k, k % 2, False)]
    shapes = np.full((len(rows), len(SHAPE_NAMES)), 0.5, np.float32)
    shapes[:, 0] = [0.2 + 0.3 * (k % 2) + 0.4 * (kind == 2) for k, kind, _ in rows]
    shapes[:, 3:5] = 0.2
    given = [(labels or {}).get(k, CLASSES[k % 2]) for k in range(COUNT)]
    marked = [kind < 2 and k not in gone for k, kind, _ in rows]
    return Examples(
        features=np.array([centres[kind] + rng.normal(0, 0.5, WIDTH) for _, kind, _ in rows], np.float32),
        shapes=shapes,
        images=[k // 2 for k, _, _ in rows],
        regions=[k if yes else f"{k}, none" for (k, _, _), yes in zip(rows, marked, strict=True)],
        labels=[(given[k],) if yes else () for (k, _, _), yes in zip(rows, marked, strict=True)],
        overlap=np.array(
            [
                0.0 if not yes else AGREEMENT if proposed else 1.0
                for (*_, proposed), yes in zip(rows, marked, strict=True)
            ]
        ),
        proposed=np.array([proposed for *_, proposed in rows]),
    )


def region(examples: Examples, k: int) -> int:
    """The row of a person's region."""
    return next(row for row in np.flatnonzero(~examples.proposed) if examples.regions[row] == k)


def test_a_swapped_label_comes_first_and_says_what_is_likelier() -> None:
    examples = project({10: "dog", 33: "cat"})
    doubts = review_labels(examples, CLASSES)
    assert {doubts[0].row, doubts[1].row} == {region(examples, 10), region(examples, 33)}
    assert {(doubt.reason, doubt.given, doubt.likelier) for doubt in doubts[:2]} == {
        ("class", "dog", "cat"),
        ("class", "cat", "dog"),
    }
    assert doubts[0].damage > 0.7
    assert [doubt.damage for doubt in doubts] == sorted((doubt.damage for doubt in doubts), reverse=True)


def test_nobody_is_judged_by_heads_that_learnt_from_the_image() -> None:
    """Both objects of an image have the wrong label, which heads taught by it would believe."""
    examples = project({10: "dog", 11: "cat"})
    likeliest, probability = class_probabilities(examples, CLASSES)
    assert CLASSES[likeliest[region(examples, 10)]] == "cat"
    assert CLASSES[likeliest[region(examples, 11)]] == "dog"
    np.testing.assert_allclose(probability.sum(1), 1)


def test_a_class_that_no_other_image_shows_is_not_doubted_for_that() -> None:
    examples, classes = project({10: "fox", 11: "fox", 33: "cat"}), [*CLASSES, "fox"]
    doubted = [doubt.given for doubt in review_labels(examples, classes) if doubt.reason == "class"]
    assert doubted == ["cat"]
    likeliest, probability = class_probabilities(examples, classes)
    assert likeliest[region(examples, 10)] >= 0
    assert np.isnan(probability[region(examples, 10), 2])
    assert np.isfinite(probability[:, :2]).all()


def test_nor_by_heads_that_were_centred_by_it() -> None:
    """What else lies in an image, however strange, says nothing of what the others teach about it."""
    examples, changed = project(), project()
    strange = np.array([image == 5 for image in examples.images]) & examples.proposed
    changed.features[strange] += 100.0
    same = np.array([image == 5 for image in examples.images]) & ~examples.proposed
    (_, before), (_, after) = (class_probabilities(each, CLASSES) for each in (examples, changed))
    np.testing.assert_array_equal(before[same], after[same])


def test_an_outline_that_no_mask_of_the_model_agrees_with() -> None:
    examples = project()
    overlap = examples.overlap.copy()
    moved = [row for row in range(len(overlap)) if examples.regions[row] == 21 and examples.proposed[row]]
    overlap[moved] = 0.35
    changed = Examples(**{**vars(examples), "overlap": overlap})
    worst = next(doubt for doubt in review_labels(changed, CLASSES) if doubt.reason == "outline")
    assert worst.row == region(examples, 21)
    assert worst.damage == pytest.approx(AGREEMENT - 0.35, abs=0.1)
    assert worst.figures["expected"] > worst.figures["agreement"]
    agreement = np.full(len(overlap), np.nan)
    agreement[region(examples, 21)] = AGREEMENT
    told = review_labels(changed, CLASSES, agreement=agreement)
    assert all(doubt.damage < 0.2 for doubt in told if doubt.reason == "outline"), "an answer to a prompt agrees"


def test_figures_of_outlines_are_believed_rather_than_agreement() -> None:
    examples = project()
    objects = [int(examples.regions[row]) for row in np.flatnonzero(~examples.proposed)]
    rng = np.random.default_rng(1)
    outlines = rng.normal(0, 1, (COUNT, len(COPIES), len(OUTLINE_NAMES)))
    outlines[:, np.array(COPIES) == "moved", :40] += 3
    outlines[objects.index(21), 0, :40] += 3
    outlines[objects.index(5)] = np.nan
    overlap = examples.overlap.copy()
    for k in (5, 60):
        overlap[[examples.regions[row] == k and examples.proposed[row] for row in range(len(overlap))]] = 0.2
    changed = Examples(**{**vars(examples), "overlap": overlap})
    doubts = [doubt for doubt in review_labels(changed, CLASSES, outlines=outlines) if doubt.reason == "outline"]
    told = {doubt.row: doubt.figures for doubt in doubts if doubt.damage > 0.2}
    assert told.keys() == {region(examples, 21), region(examples, 5)}, "60 agrees badly, but its outline is as usual"
    assert told[region(examples, 21)]["moved"] > told[region(examples, 21)]["cut"]
    assert told[region(examples, 5)].keys() == {"agreement", "expected"}
    with pytest.raises(TrainingError, match="figures"):
        review_labels(changed, CLASSES, outlines=outlines[1:])


def test_an_object_that_nobody_marked_is_named_once() -> None:
    examples = project(gone=(40,))
    missing = [doubt for doubt in review_labels(examples, CLASSES) if doubt.reason == "missing"]
    assert examples.regions[missing[0].row] == "40, none"
    assert missing[0].likelier == "cat"
    assert missing[0].given == ""
    assert len([doubt for doubt in missing if doubt.damage > 0.8]) == 1


def test_what_is_not_known_is_not_doubted() -> None:
    few = project()
    rows = np.array([row for row in range(len(few.overlap)) if few.images[row] < 3])
    small = Examples(
        few.features[rows],
        few.shapes[rows],
        [few.images[row] for row in rows],
        [few.regions[row] for row in rows],
        [few.labels[row] for row in rows],
        few.overlap[rows],
        few.proposed[rows],
    )
    assert review_labels(small, CLASSES) == []
    one_class = review_labels(project({k: "cat" for k in range(COUNT)}), ("cat",))
    assert not [doubt for doubt in one_class if doubt.reason == "class"]
    in_part: dict[str, Any] = vars(project(gone=(40,)))
    overlap = np.where(in_part["overlap"] == 0, np.nan, in_part["overlap"])
    assert not [
        doubt
        for doubt in review_labels(Examples(**{**in_part, "overlap": overlap}), CLASSES)
        if doubt.reason == "missing"
    ]
    with pytest.raises(TrainingError, match="agreement and predicted"):
        review_labels(few, CLASSES, agreement=np.zeros(3))


def test_a_box_stays_within_the_image() -> None:
    shape = np.zeros(len(SHAPE_NAMES))
    shape[[0, 1, 3, 4]] = 0.1, 0.5, 0.4, 0.2
    assert box_of_shape(shape) == pytest.approx((0.0, 0.4, 0.3, 0.6))
