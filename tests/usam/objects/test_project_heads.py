"""A class head and a wanted head: what they learn from few, lopsided, renamed and removed labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.usam.objects.blobs import accuracy, blobs
from usam.errors import HeadsError, TrainingError
from usam.objects.estimate import Blend, average_precision
from usam.objects.files import load_project_heads, project_heads_file
from usam.objects.project_heads import (
    ChosenGrid,
    Examples,
    ObjectSizes,
    ProjectHeads,
    fit_project,
    selector_inputs,
)

VERSION: dict[str, Any] = {"features_version": "test", "checkpoint": "nano-m"}
CLASSES = ("cat", "dog", "fox")


def judged(heads: ProjectHeads, examples: Examples) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return heads.judge(examples.features, examples.shapes)


def kept(heads: ProjectHeads, folder: Path) -> ProjectHeads:
    """Written to a file and read."""
    path = folder / "heads.safetensors"
    path.write_bytes(project_heads_file(heads))
    return load_project_heads(path)


def test_both_heads_learn_and_hold_on_other_objects() -> None:
    heads = fit_project(blobs({"cat": 30, "dog": 20, "fox": 20, "": 80}), CLASSES, **VERSION)
    other = blobs({"cat": 40, "dog": 40, "fox": 40, "": 100}, seed=9)
    wanted, probabilities = judged(heads, other)
    assert heads.classifier is not None
    assert heads.classifier.kind == "logistic"
    assert accuracy(probabilities, heads.classes, other) > 0.85
    np.testing.assert_allclose(probabilities.sum(1), 1)
    truth = other.overlap == 1
    assert wanted[truth].mean() > wanted[~truth].mean() + 0.4
    assert (heads.shown(wanted) & truth).sum() > 0.8 * truth.sum()
    assert heads.threshold.recall >= 0.8


def test_one_example_a_class_makes_prototypes() -> None:
    heads = fit_project(blobs({"cat": 1, "dog": 1, "fox": 1, "": 12}, spread=0.4), CLASSES, **VERSION)
    assert heads.classifier is not None
    assert heads.classifier.kind == "prototypes"
    other = blobs({"cat": 20, "dog": 20, "fox": 20}, spread=0.4, seed=3)
    assert accuracy(judged(heads, other)[1], heads.classes, other) > 0.8


def test_a_class_of_one_example_beside_a_large_one_can_win() -> None:
    heads = fit_project(blobs({"cat": 60, "dog": 60, "fox": 1}, spread=0.5), CLASSES, **VERSION)
    other = blobs({"cat": 1, "dog": 1, "fox": 30}, spread=0.5, seed=4)
    probabilities = judged(heads, other)[1]
    rare = np.array([given == ("fox",) for given in other.labels])
    assert probabilities[rare, 2].mean() > 10 * probabilities[~rare, 2].mean()


def test_ten_against_ten_thousand_stay_apart() -> None:
    heads = fit_project(blobs({"cat": 10_000, "dog": 10}, spread=0.8), ("cat", "dog"), **VERSION)
    other = blobs({"cat": 300, "dog": 100}, spread=0.8, seed=5)
    probabilities = judged(heads, other)[1]
    rare = np.array([given == ("dog",) for given in other.labels])
    assert (probabilities[rare, 1] > 0.5).mean() > 0.8
    assert (probabilities[~rare, 1] > 0.5).mean() < 0.02


def test_a_single_class_is_certain_and_unseen_labels_are_impossible() -> None:
    heads = fit_project(blobs({"cat": 9}), ("cat", "dog"), **VERSION)
    assert heads.unseen == ("dog",)
    probabilities = judged(heads, blobs({"cat": 5}, seed=2))[1]
    np.testing.assert_allclose(probabilities, np.tile([1.0, 0.0], (5, 1)), atol=1e-4)
    assert heads.selector is None  # nothing unwanted was seen
    assert heads.shown(np.full(3, np.nan)).all()


def test_removed_labels_are_dropped_but_stay_wanted() -> None:
    examples = blobs({"cat": 20, "dog": 20, "fox": 20, "": 60})
    heads = fit_project(examples, ("cat", "fox"), **VERSION)
    assert heads.unseen == ()
    assert heads.classifier is not None
    assert heads.classifier.examples.tolist() == [20, 20]
    assert heads.selector is not None
    assert heads.selector.examples.tolist() == [60, 20, 20, 20]  # unwanted, cats, foxes, and what has no label any more
    gone = fit_project(examples, ("bird",), **VERSION)
    assert gone.classifier is None
    assert gone.unseen == ("bird",)
    assert np.isnan(judged(gone, examples)[1]).all()


def test_wanted_classes_that_lie_on_either_side_of_what_is_unwanted_are_told_from_it() -> None:
    def on_a_line(seed: int) -> Examples:
        examples = blobs({"cat": 60, "dog": 60, "": 120}, spread=0.3, seed=seed)
        place = {"cat": -3.0, "dog": 3.0, "": 0.0}
        offset = np.array([place[given[0] if given else ""] for given in examples.labels])
        noise = np.random.default_rng(seed).normal(0, 0.5, examples.features.shape)
        noise[:, 0] += offset
        return replace(examples, features=noise.astype(np.float32))

    other = on_a_line(1)
    apart = fit_project(on_a_line(0), ("cat", "dog"), **VERSION)
    wanted = judged(apart, other)[0]
    assert average_precision(wanted, other.overlap > 0) > 0.95
    animals = on_a_line(0)
    animals = replace(animals, labels=[("animal",) if given else () for given in animals.labels])
    as_one = fit_project(animals, ("animal",), **VERSION)
    assert as_one.selector is None or average_precision(judged(as_one, other)[0], other.overlap > 0) < 0.9


def test_several_kinds_of_wanted_objects_are_as_likely_on_average_as_they_are_many() -> None:
    counts = {"cat": 12, "dog": 12, "fox": 12, "owl": 12, "": 300}
    heads = fit_project(blobs(counts, spread=4.0), ("cat", "dog", "fox", "owl"), **VERSION)
    assert heads.selector is not None
    other = blobs({name: count * 10 for name, count in counts.items()}, spread=4.0, seed=3)
    assert heads.selector.probabilities(selector_inputs(other.features, other.shapes))[:, 0].mean() == pytest.approx(
        300 / 348, abs=0.08
    )


def test_a_label_of_few_images_is_wanted_without_a_kind_of_its_own() -> None:
    heads = fit_project(blobs({"cat": 40, "dog": 3, "fox": 3, "": 80}, per_image=4), CLASSES, **VERSION)
    assert heads.selector is not None
    assert heads.selector.examples.tolist() == [80, 40, 6]
    assert heads.unseen == ()


def test_copies_of_what_nobody_marked_count_once() -> None:
    examples = blobs({"cat": 40, "": 40}, spread=3.0)
    shapes = np.tile(np.array([0.5, 0.5, 0.2, 0.2, 0.2, 1, 0, 0, 0, 0, 1, 0.5], np.float32), (80, 1))
    shapes[:, 0] = np.arange(80) % 3 * 0.3 + 0.2  # apart, within an image
    alone = fit_project(replace(examples, shapes=shapes), ("cat",), **VERSION)
    rows = np.r_[np.arange(80), np.repeat(np.flatnonzero(examples.overlap == 0), 5)]
    copied = Examples(
        examples.features[rows],
        shapes[rows],
        [examples.images[row] for row in rows],
        [examples.regions[row] for row in rows],
        [examples.labels[row] for row in rows],
        examples.overlap[rows],
        examples.proposed[rows],
    )
    six_times = fit_project(copied, ("cat",), **VERSION)
    assert alone.selector is not None
    assert six_times.figures["wanted_precision"] > 0.5
    assert six_times.figures["wanted_ap"] > alone.figures["wanted_ap"] - 0.25


def test_rare_labels_are_said_unless_that_is_worse_than_the_commonest() -> None:
    classes = ("cat", "dog", "fox", "owl")
    rare = {"cat": 60, "dog": 6, "fox": 6, "owl": 6, "": 60}
    heads = fit_project(blobs(rare, spread=3.0, per_image=6), classes, **VERSION)
    other = blobs(dict.fromkeys(classes, 50), spread=3.0, seed=90)
    assert accuracy(judged(heads, other)[1], classes, other) > 0.47  # 0.42 where frequent labels are given more
    noisy = fit_project(blobs(rare, spread=4.0, per_image=6), classes, **VERSION)
    assert noisy.classifier is not None
    assert noisy.figures["class_accuracy"] >= noisy.figures["class_accuracy_before"]


def test_a_region_of_several_labels_teaches_each_by_its_share() -> None:
    examples = blobs({"cat": 20, "dog": 20})
    both = replace(examples, labels=[("cat", "dog"), *examples.labels[1:]])
    heads = fit_project(both, ("cat", "dog"), **VERSION)
    assert heads.classifier is not None
    assert heads.classifier.examples.sum() == 41
    assert heads.figures["class_examples"] == 40


def test_a_marked_object_counts_once_in_its_class_however_often_it_was_proposed() -> None:
    examples = blobs({"cat": 20, "dog": 20})
    twice = Examples(
        np.repeat(examples.features, 2, axis=0),
        np.repeat(examples.shapes, 2, axis=0),
        [name for name in examples.images for _ in range(2)],
        [name for name in examples.regions for _ in range(2)],
        [given for given in examples.labels for _ in range(2)],
        np.repeat(examples.overlap, 2),
        np.tile([True, False], len(examples.labels)),
    )
    figures = fit_project(twice, ("cat", "dog"), **VERSION).figures
    assert (figures["labels/cat"], figures["labels/dog"]) == (20, 20)


def test_a_label_that_one_image_alone_shows_counts_as_labelled_and_not_as_wrong() -> None:
    examples = blobs({"cat": 20, "dog": 20, "fox": 20})
    foxes = [given == ("fox",) for given in examples.labels]
    images = ["here" if fox else name for fox, name in zip(foxes, examples.images, strict=True)]
    heads = fit_project(replace(examples, images=images, proposed=np.zeros(60, bool)), CLASSES, **VERSION)
    figures = heads.figures
    assert figures["labels/fox"] == 20
    assert np.isnan(figures["recall/fox"])
    assert figures["class_accuracy"] > 0.95
    assert heads.classifier is not None


def test_what_is_not_known_teaches_nothing() -> None:
    examples = blobs({"cat": 30, "": 60})
    unknown = replace(examples, overlap=np.where(examples.overlap == 0, np.nan, examples.overlap))
    assert fit_project(unknown, ("cat",), **VERSION).selector is None


def test_probabilities_mean_what_they_say_on_other_images() -> None:
    heads = fit_project(blobs({"cat": 40, "dog": 40, "": 120}, spread=2.5), ("cat", "dog"), **VERSION)
    other = blobs({"cat": 400, "dog": 400, "": 1200}, spread=2.5, seed=8)
    wanted, _ = judged(heads, other)
    bins = np.digitize(wanted, [0.2, 0.4, 0.6, 0.8])
    errors = [
        abs(wanted[bins == b].mean() - other.overlap[bins == b].mean()) for b in range(5) if (bins == b).sum() > 50
    ]
    assert max(errors) < 0.2


def test_saved_heads_judge_as_before(tmp_path: Path) -> None:
    examples = blobs({"cat": 12, "dog": 9, "": 30})
    heads = fit_project(examples, ("cat", "dog"), **VERSION)
    again = kept(heads, tmp_path)
    for first, second in zip(judged(heads, examples), judged(again, examples), strict=True):
        np.testing.assert_array_equal(first, second)
    assert again.threshold == heads.threshold
    assert again.figures == heads.figures
    untaught = fit_project(blobs({"": 3}), ("cat",), **VERSION)
    empty = kept(untaught, tmp_path)
    assert empty.classifier is None
    assert empty.selector is None


def test_broken_files_and_other_features_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(HeadsError, match=r"x\.safetensors"):
        load_project_heads(tmp_path / "x.safetensors")
    with pytest.raises(HeadsError, match=r"y\.safetensors"):
        load_project_heads(tmp_path / "y.safetensors")
    heads = fit_project(blobs({"cat": 6, "": 9}), ("cat",), **VERSION)
    with pytest.raises(TrainingError, match="retrain"):
        heads.check_fits("object-features-2")
    with pytest.raises(TrainingError, match="features"):
        heads.judge(np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(TrainingError, match="label"):
        fit_project(blobs({"cat": 6}), (), **VERSION)


def test_what_teaches_nothing_is_not_used() -> None:
    examples = blobs({"cat": 30, "dog": 30, "": 60}, spread=0.8)
    rng = np.random.default_rng(2)
    shuffled = replace(examples, features=rng.normal(size=examples.features.shape), shapes=rng.random((120, 12)))
    shuffled.shapes[:, -1] = shuffled.overlap  # SAM's own estimate tells all
    heads = fit_project(shuffled, ("cat", "dog"), **VERSION)
    assert heads.selector is None or heads.figures["wanted_ap"] >= heads.figures["wanted_ap_before"]


def test_what_marked_objects_are_like_is_kept(tmp_path: Path) -> None:
    examples = blobs({"cat": 12, "": 9})
    shapes = np.zeros((21, 12))
    shapes[:, 2] = np.linspace(0.1, 0.5, 21)
    marked = replace(examples, shapes=shapes, proposed=np.arange(21) >= 4, images=[0, 0, 0, 1, *range(17)])
    heads = fit_project(marked, ("cat",), **VERSION)
    assert heads.sizes is not None
    assert heads.sizes.side == pytest.approx(np.median(shapes[:4, 2]))
    assert heads.sizes.many == pytest.approx(2.8)
    assert kept(heads, tmp_path).sizes == heads.sizes
    chosen = replace(heads, grid=ChosenGrid(12, 2))
    assert kept(chosen, tmp_path).grid == ChosenGrid(12, 2)
    assert ObjectSizes.of(replace(marked, proposed=np.ones(21, bool))) is None


def test_the_say_of_sams_estimate_is_kept_with_the_heads(tmp_path: Path) -> None:
    heads = fit_project(blobs({"cat": 20, "": 40}), ("cat",), **VERSION)
    blended = replace(heads, blend=Blend(0.5, 2.0, -0.3))
    examples = blobs({"cat": 10, "": 10}, seed=4)
    read = kept(blended, tmp_path)
    assert read.blend == blended.blend
    np.testing.assert_array_equal(judged(read, examples)[0], judged(blended, examples)[0])
    sure = replace(examples, shapes=np.ones_like(examples.shapes) * [1, 0.99])
    unsure = replace(examples, shapes=np.ones_like(examples.shapes) * [1, 0.2])
    assert (judged(read, sure)[0] > judged(read, unsure)[0]).all()


def test_where_looks_say_nothing_and_the_estimate_does_it_decides_what_is_shown() -> None:
    plain = blobs({"cat": 80, "": 120}, spread=50.0)
    rng = np.random.default_rng(0)
    shapes = rng.random((200, 12)).astype(np.float32)
    shapes[:, -1] = np.where(plain.overlap == 1, rng.uniform(0.6, 1, 200), rng.uniform(0, 0.65, 200))
    heads = fit_project(replace(plain, shapes=shapes), ("cat",), **VERSION)
    assert heads.selector is not None
    wanted, _ = heads.judge(plain.features, shapes)
    assert wanted[plain.overlap == 1].mean() > wanted[plain.overlap == 0].mean() + 0.3
    assert heads.threshold.precision > 0.8
