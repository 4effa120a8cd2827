"""Figures: prompts land on objects, IoUs are taken at the image's size, intervals hold the value."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from usam.checkpoints.nano import NanoSize, build_size
from usam.errors import DatasetError
from usam.research.datasets.record import Instance, Record
from usam.research.nano.figures import Outcomes, best_of_three, figures, first_annotator, held_out, measure, picked
from usam.research.nano.stored_images import nano_split

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


def record_of(folder: Path, name: str, *boxes: tuple[int, int, int, int]) -> Record:
    cv2.imwrite(str(folder / f"{name}.png"), np.full((60, 80, 3), 90, np.uint8))
    instances = []
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        mask = np.zeros((60, 80), bool)
        mask[y0:y1, x0:x1] = True
        instances.append(Instance(f"{name}/{number}", lambda mask=mask: mask))
    return Record("d", name, name, folder / f"{name}.png", tuple(instances))


def outcomes(count: int = 60) -> Outcomes:
    rng = np.random.default_rng(0)
    iou = rng.random((count, 4)).astype(np.float32)
    kinds = ("click", "points", "box")
    groups = np.array([f"image {index // 3}" for index in range(count)])
    return Outcomes(groups, rng.random(count).astype(np.float32), dict.fromkeys(kinds, iou), dict.fromkeys(kinds, iou))


def test_measures_every_large_object(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_size(NanoSize("tiny", "tf_efficientnet_lite0", 64, 32, mlp_dim=32, num_heads=2))
    records = [record_of(tmp_path, "a", (5, 5, 40, 40), (60, 50, 62, 52)), record_of(tmp_path, "b", (0, 0, 80, 30))]
    got = measure(model, records)
    assert got.groups.tolist() == ["d/a", "d/b"]
    assert got.area.tolist() == pytest.approx([35 * 35 / 4800, 0.5])
    for kind in ("click", "points", "box"):
        assert got.iou[kind].shape == got.predicted[kind].shape == (2, 4)
        assert ((got.iou[kind] >= 0) & (got.iou[kind] <= 1)).all()
    with pytest.raises(DatasetError, match="objects over"):
        measure(model, records, smallest=0.9)


def test_best_and_picked_by_hand() -> None:
    iou = np.array([[0.9, 0.1, 0.8, 0.3]], np.float32)
    predicted = np.array([[0.99, 0.2, 0.1, 0.6]], np.float32)
    assert best_of_three(iou).tolist() == pytest.approx([0.8])
    assert picked(iou, predicted).tolist() == pytest.approx([0.3])


def test_intervals_hold_the_value() -> None:
    table = {figure.name: figure for figure in figures(outcomes(), rounds=200)}
    click = table["click, best of three"]
    assert click.low < click.value < click.high
    assert (click.objects, click.images) == (60, 20)
    assert table["click, own pick"].value == pytest.approx(click.value)
    assert table["box, Pearson of own estimate"].value == pytest.approx(1.0)
    again = {figure.name: figure for figure in figures(outcomes(), rounds=200)}
    assert again == table


def test_take_repeats_and_leaves_out() -> None:
    few = outcomes().take(np.array([0, 0, 5]))
    assert few.groups.tolist() == ["image 0", "image 0", "image 1"]


def test_held_out_is_the_test_part_once_per_image(tmp_path: Path) -> None:
    records = [record_of(tmp_path, str(number), (5, 5, 40, 40)) for number in range(40)]
    kept = list(held_out(records + records))
    assert {nano_split(record.group) for record in kept} == {"test"}
    assert len(kept) == len({record.image_id for record in kept})
    assert len(list(first_annotator(records + records))) == 40
    assert {nano_split(record.group) for record in held_out(records, "heads")} == {"heads"}
