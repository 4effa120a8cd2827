"""The demo's pictures: the same on every machine, with true masks, and fruit that the model finds."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

import usam
from backend.local.scenes import COUNT, FRUIT, HW, draw_scene, draw_scenes, scene_name
from usam.masks import iou
from usam.prompts import grid_points

FOUND_IOU = 0.8
scene = cache(draw_scene)


def test_a_scene_is_drawn_from_its_number_alone() -> None:
    one, same, other = scene(1), draw_scene(1), scene(2)
    assert one.image.shape == (*HW, 3)
    assert one.image.dtype == np.uint8
    assert np.array_equal(one.image, same.image)
    assert not np.array_equal(one.image, other.image)
    assert not np.array_equal(one.image, draw_scene(1, seed=1).image)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_true_masks_are_disjoint_and_of_the_colour_of_their_fruit(number: int) -> None:
    drawn = scene(number)
    assert {thing.kind for thing in drawn.fruit} == set(FRUIT)
    assert np.sum([thing.mask for thing in drawn.objects], axis=0).max() == 1
    for thing in drawn.fruit:
        red, green, blue = drawn.image[thing.mask].mean(axis=0)
        assert thing.mask.sum() > 0.01 * thing.mask.size, "large enough to be clicked at"
        assert red > green > blue
        assert (green / red > 0.7) == (thing.kind == "Lemon")


def test_the_series_holds_what_is_wanted_and_what_is_not() -> None:
    kinds = [thing.kind for number in range(1, 9) for thing in scene(number).objects]
    assert set(kinds) == {*FRUIT, "leaf", "plate", "cup"}
    assert sum(kind in FRUIT for kind in kinds) > len(kinds) / 2


def test_files_are_drawn_once_and_quickly(tmp_path: Path) -> None:
    started = time.process_time()
    draw_scenes(tmp_path / "deep" / "scenes", count=3)
    assert (time.process_time() - started) / 3 * COUNT < 60, "all of them, on a busy machine too"
    names = sorted(path.name for path in (tmp_path / "deep" / "scenes").iterdir())
    assert names == [scene_name(number) for number in (1, 2, 3)]
    first = tmp_path / "deep" / "scenes" / names[0]
    shown = cv2.imread(str(first))
    assert shown is not None
    assert np.abs(shown[..., ::-1].astype(int) - scene(1).image).mean() < 5, "right way round, hardly lossy"
    assert first.stat().st_size < 400_000
    first.write_bytes(b"kept")
    draw_scenes(tmp_path / "deep" / "scenes", count=3)
    assert first.read_bytes() == b"kept", "a picture that is there is somebody's"


@pytest.mark.slow
def test_the_model_finds_the_fruit() -> None:
    """At least 80 % of the fruit of six pictures have a proposal of IoU 0.8 or more."""
    predictor = usam.load("nano-m")
    best = []
    for number in range(1, 7):
        drawn = scene(number)
        predictor.set_image(drawn.image)
        masks = usam.propose_masks(predictor, grid_points(HW, 8), pred_iou_thresh=0.5).masks
        best += [max(float(iou(mask, thing.mask)) for mask in masks) for thing in drawn.fruit]
    assert np.mean(np.array(best) >= FOUND_IOU) >= 0.8, sorted(best)
