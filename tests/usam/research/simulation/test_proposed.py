"""A replay on the pool's own proposals: what is counted is what people would do, and it gets less as labels teach."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from usam.errors import SimulationError
from usam.objects.effort import Prices, Work
from usam.predictor.clean_proposals import Layout
from usam.research.datasets.record import Instance, Record
from usam.research.simulation.proposed import ProposedImage, propose_images, replay_work, work_on, write_work


def made(number: int, labels: tuple[str, ...] = ("cat", "dog")) -> ProposedImage:
    """Six squares beside one another, which look like what they are: two wanted ones, four others."""
    rng = np.random.default_rng(number)
    centres = {name: np.random.default_rng([7, k]).normal(0, 1, 16) for k, name in enumerate(("cat", "dog", ""))}
    kinds = [*labels, "", "", "", ""]
    masks = np.zeros((6, 24, 24), bool)
    for k in range(6):
        masks[k, 4 * k : 4 * k + 3, 4:9] = True
    features = np.array([centres[kind] + rng.normal(0, 0.4, 16) for kind in kinds], np.float32)
    shapes = np.full((6, 12), 0.5, np.float32)
    shapes[:, 0], shapes[:, 3] = np.arange(6) / 6, 1 / 8  # beside one another
    return ProposedImage(
        f"image {number}",
        Layout.of(masks),
        np.full(6, 0.8),
        features,
        shapes,
        np.eye(6, 2) * 0.9,
        labels,
        features[:2],
        shapes[:2],
    )


def test_before_learning_everything_clean_is_shown_and_counted_as_people_would() -> None:
    assert work_on(made(0), None, "cat") == Work(kept=1, deleted=4, relabelled=1)
    assert work_on(made(0, ("cat", "cat")), None, "cat") == Work(kept=2, deleted=4)


def test_labels_leave_less_work_and_both_kinds_of_it_are_counted() -> None:
    points = replay_work([made(k) for k in range(30)], budget=24, step=8)
    assert [point.labels for point in points] == [0, 8, 16, 24]
    assert points[0].left == Work(kept=1, deleted=4, relabelled=1)
    assert points[-1].left.deleted < 0.5
    assert points[-1].left.relabelled < 0.2
    assert points[-1].left.added < 0.3
    assert points[-1].spent.deleted >= 16, "the first images were shown before anything was learnt"
    assert points[-1].left.seconds() < 0.5 * points[0].left.seconds()
    assert points == replay_work([made(k) for k in range(30)], budget=24, step=8)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(SimulationError, match="3 images"):
        replay_work([made(k) for k in range(3)])


def test_the_table_says_actions_seconds_and_share(tmp_path: Path) -> None:
    points = replay_work([made(k) for k in range(12)], budget=8, step=8)
    path = write_work([points], tmp_path / "work.csv", Prices.by_hand())
    first = next(csv.DictReader(path.read_text().splitlines()))
    assert float(first["actions"]) == 5
    assert float(first["seconds"]) == pytest.approx(6 * 1.6 + 4 * 2.4 + 2.4, abs=1e-3)
    assert float(first["share_of_drawing_all"]) == pytest.approx(float(first["seconds"]) / (2 * 79.2), abs=1e-3)


def test_images_are_proposed_as_a_grid_of_points_finds_them(tmp_path: Path) -> None:
    from PIL import Image

    from usam.research.tokens.models import untrained_predictor

    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[10:40, 20:60] = 220
    Image.fromarray(pixels).save(tmp_path / "a.png")
    truth = pixels[..., 0] > 100
    nothing = Record("set", "b", "set/b", tmp_path / "a.png", (Instance("b/1", lambda: np.zeros((60, 80), bool)),))
    record = Record("set", "a", "set/a", tmp_path / "a.png", (Instance("a/1", lambda: truth, "box"),))
    (image,) = propose_images(untrained_predictor("nano-s", "cpu"), [record, nothing], per_side=3)
    assert image.labels == ("box",)
    assert len(image.layout) == len(image.iou) == len(image.features) == len(image.overlap)
    assert image.overlap.shape[1] == 1
    assert image.true_shapes.shape == (1, 12)
    assert image.features.shape[1] == image.true_features.shape[1] > 0
