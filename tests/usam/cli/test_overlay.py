"""The picture of three masks: where it puts them, what it refuses, and that it is written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from usam.cli.overlay import PANEL, draw_overlay, save_picture
from usam.errors import ImageError, MaskError

GRAY = np.full((60, 90, 3), 128, np.uint8)
IOUS = np.array([0.2, 0.9, 0.5], np.float32)
SCORES = {
    "iou_large": np.array([0.9, 0.3, 0.1], np.float32),
    "task_gap": np.array([0.1, -0.1, 0.5], np.float32),
    "model_gap": np.array([0.0, 0.2, 0.3], np.float32),
}


def stripes() -> np.ndarray[Any, Any]:
    """Mask m covers the m-th third of the image's width."""
    masks = np.zeros((3, 60, 90), bool)
    for index in range(3):
        masks[index, :, 30 * index : 30 * index + 30] = True
    return masks


def test_each_view_is_tinted_where_its_mask_is_and_nowhere_else() -> None:
    picture = draw_overlay(GRAY, stripes(), IOUS, {})
    pitch = PANEL + 20
    for view in range(3):
        for third in range(3):
            x = 20 + view * pitch + PANEL * (2 * third + 1) // 6
            red, green, blue = (int(value) for value in picture[120, x])
            if view == third:
                assert blue > red + 40
            else:
                assert (red, green, blue) == (128, 128, 128)


def test_more_scores_make_a_taller_picture_of_the_same_width() -> None:
    bare, full = (draw_overlay(GRAY, stripes(), IOUS, scores) for scores in ({}, SCORES))
    assert full.shape[1] == bare.shape[1] == 20 + 3 * (PANEL + 20)
    assert full.shape[0] > bare.shape[0]


def test_the_best_mask_is_the_one_of_the_named_head() -> None:
    views = [
        draw_overlay(GRAY, stripes(), IOUS, SCORES, quality=quality)[:, 20 : 20 + PANEL]
        for quality in ("iou_large", None)
    ]
    title = slice(60 * PANEL // 90 + 40, 60 * PANEL // 90 + 62)
    dark = [int((view[title, 80:160] < 100).all(-1).sum()) for view in views]
    assert dark[0] > 50
    assert dark[1] == 0


def test_a_bar_is_as_long_as_its_score() -> None:
    def green(value: float) -> int:
        picture = draw_overlay(GRAY, stripes()[:1], np.array([value], np.float32), {})
        return int((picture == (0, 140, 110)).all(-1).any(0).sum())

    assert green(0.0) == 0
    assert abs(green(0.5) - 60) <= 2
    assert abs(green(1.0) - 120) <= 2
    assert green(7.0) == green(1.0)


def test_points_and_box_are_drawn_at_their_place() -> None:
    masks = np.zeros((1, 60, 90), bool)
    picture = draw_overlay(GRAY, masks, IOUS[:1], {}, [[45, 30], [10, 10]], [1, 0], [20, 15, 70, 45])
    ratio = PANEL / 90
    assert tuple(picture[20 + round(30 * ratio), 20 + round(45 * ratio)]) == (0, 140, 110)
    assert tuple(picture[20 + round(10 * ratio), 20 + round(10 * ratio)]) == (213, 94, 0)
    assert tuple(picture[20 + round(30 * ratio), 20 + round(20 * ratio)]) == (255, 220, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 3), (60, 90)])
def test_images_of_any_size_fit(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    picture = draw_overlay(image, np.ones((3, *size), bool), IOUS, SCORES, [[0, 0]], [1])
    assert picture.shape[2] == 3
    assert picture.dtype == np.uint8
    assert picture.shape[0] <= PANEL + 300


def test_logits_are_masks_above_zero() -> None:
    logits = np.where(stripes(), 3.0, -3.0).astype(np.float32)
    assert np.array_equal(draw_overlay(GRAY, logits, IOUS, {}), draw_overlay(GRAY, stripes(), IOUS, {}))


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(MaskError, match=r"\(M, 60, 90\), got \(3, 10, 10\)"):
        draw_overlay(GRAY, np.ones((3, 10, 10), bool), IOUS, {})
    with pytest.raises(MaskError, match=r"each of 3 masks.*task_gap"):
        draw_overlay(GRAY, stripes(), IOUS, {"task_gap": np.zeros(2, np.float32)})


@pytest.mark.parametrize("name", ["out.png", "out.JPG", "out.webp"])
def test_a_picture_is_written_and_read_back(tmp_path: Path, name: str) -> None:
    save_picture(GRAY, tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == (90, 60)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"ending in \.png.*out\.txt"):
        save_picture(GRAY, tmp_path / "out.txt")
    with pytest.raises(ImageError, match="to write"):
        save_picture(GRAY, tmp_path / "nowhere" / "out.png")
    assert list(tmp_path.iterdir()) == []
