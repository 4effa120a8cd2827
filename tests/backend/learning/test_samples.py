"""Samples say what the paper says: its prompts, its targets, half floats."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.inference.model import LoadedModel, ObjectLooks
from backend.label_studio.records import Annotation
from backend.label_studio.shapes import drawn_masks
from backend.learning.examples import MarkedObject, join_outlines
from backend.learning.samples import (
    COPIED,
    AnnotatedImage,
    larger_targets,
    marked_objects,
    measured,
    object_targets,
    overlaps,
    paper_prompts,
    to_batch,
)
from backend.metrics.service import Metrics
from backend.settings import Settings
from tests.usam.objects.outlined import nothing_told
from usam.masks import encode_rle

HW = (96, 128)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel.load("nano-s", Settings(model="nano-s", threads=1), Metrics(), None)


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    picture = np.full((*HW, 3), 30, np.uint8)
    picture[30:70, 40:90] = (220, 180, 40)
    return picture


def disc() -> np.ndarray[Any, Any]:
    mask = np.zeros(HW, bool)
    mask[30:70, 40:90] = True
    return mask


def region(kind: str, name: str = "r", **value: Any) -> dict[str, Any]:
    return {
        "id": name,
        "type": kind,
        "original_width": HW[1],
        "original_height": HW[0],
        "image_rotation": 0,
        "value": value,
    }


def brush(name: str = "r", mask: np.ndarray[Any, Any] | None = None) -> dict[str, Any]:
    rle = encode_rle(disc() if mask is None else mask)
    return region("brushlabels", name, format="rle", rle=rle, brushlabels=["thing"])


RECTANGLE = region(
    "rectanglelabels", "box", x=31.25, y=31.25, width=39.0625, height=41.6667, rotation=0, rectanglelabels=["thing"]
)


def test_a_brush_region_becomes_a_sample(model: LoadedModel, image: np.ndarray[Any, Any]) -> None:
    annotated = AnnotatedImage(model, model.encode(image))
    rows, reason = annotated.samples(Annotation(7, 3, "t", [brush()]))
    assert reason == ""
    (row,) = rows
    assert (row.annotation, row.task, row.region, row.label, row.box_only) == (7, 3, "r", "thing", False)
    assert (row.iou_token.dtype, row.iou_token.shape) == (np.float16, (model.width,))
    assert row.mask_tokens.shape == (4, model.width)
    assert set(row.targets) == {"iou_nano_s", "iou_dense_prompt", "iou_unsupervised", "prompt_gap", "task_gap"}
    for values in row.targets.values():
        assert len(values) == 3
        assert all(0 <= value <= 1 for value in values)


def test_the_targets_are_those_of_the_masks_that_the_predictor_gives(
    model: LoadedModel, image: np.ndarray[Any, Any]
) -> None:
    (row,), _ = AnnotatedImage(model, model.encode(image)).samples(Annotation(7, 3, "t", [brush()]))
    prompt = paper_prompts(disc(), "7:r")[0]
    predictor = model.predictor
    predictor.set_heads(None)
    predictor.set_image(image)
    masks = predictor.predict(point_coords=prompt.points, point_labels=prompt.labels)[0].astype(bool)
    expected = [(mask & disc()).sum() / (mask | disc()).sum() for mask in masks]
    np.testing.assert_allclose(row.targets["iou_nano_s"], expected, atol=0.01)


def test_the_same_region_gives_the_same_sample_again(model: LoadedModel, image: np.ndarray[Any, Any]) -> None:
    first, again = (
        AnnotatedImage(model, model.encode(image)).samples(Annotation(7, 3, "t", [brush()]))[0][0] for _ in range(2)
    )
    np.testing.assert_array_equal(first.iou_token, again.iou_token)
    assert first.targets == again.targets


def test_prompts_are_the_centre_and_seven_more_inside() -> None:
    single, dense = paper_prompts(disc(), "7:r")
    assert single.points.shape == (1, 2)
    assert dense.points.shape == (8, 2)
    np.testing.assert_array_equal(dense.points[0], single.points[0])
    for x, y in dense.points.astype(int):
        assert disc()[y, x]


def test_a_rectangle_is_judged_by_boxes(model: LoadedModel, image: np.ndarray[Any, Any]) -> None:
    (row,), reason = AnnotatedImage(model, model.encode(image)).samples(Annotation(7, 3, "t", [RECTANGLE]))
    assert row.box_only, reason
    logits = np.full((1, 4, 24, 32), -9.0, np.float32)
    logits[0, 1, 8:16, 10:20] = 9.0
    mask = np.zeros(HW, bool)
    mask[32:64, 40:80] = True
    mask[40:50, 50:60] = False
    found = overlaps(logits, mask, box_only=True)
    assert found.shape == (1, 4)
    assert found[0, 1] > 0.85
    assert found[0, 0] == 0


def test_a_broken_region_is_named_and_the_others_count(model: LoadedModel, image: np.ndarray[Any, Any]) -> None:
    other_size = brush("turned") | {"original_width": HW[0], "original_height": HW[1]}
    nothing = brush("nothing", np.zeros(HW, bool))
    points = region("keypointlabels", "click", x=5, y=5, width=1, keypointlabels=["thing"])
    annotation = Annotation(7, 3, "t", [other_size, nothing, points, brush("good")])
    rows, reason = AnnotatedImage(model, model.encode(image)).samples(annotation)
    assert [row.region for row in rows] == ["good"]
    assert "region turned" in reason
    assert "region nothing" in reason
    assert "click" not in reason


def test_outlines_are_measured_where_the_picture_is_at_hand(model: LoadedModel, image: np.ndarray[Any, Any]) -> None:
    settings = Settings(model="nano-s", points_per_side=2)
    moved = brush("moved", np.roll(disc(), 12, 1))
    drawn = drawn_masks([brush(), RECTANGLE, moved])[0]
    embedding, annotation = model.encode(image), Annotation(7, 3, "t", [])
    row = AnnotatedImage(model, embedding, pixels=lambda: image).examples(annotation, drawn, None, settings)
    assert row is not None
    figures, hints = join_outlines([row])
    assert np.isfinite(figures).all((1, 2)).tolist() == [True, False, True], "a box has no outline"
    assert hints[0, :2] == pytest.approx((0, 0), abs=3)
    assert hints[2, :2] == pytest.approx((-12, 0), abs=3)
    without = AnnotatedImage(model, embedding).examples(annotation, drawn, None, settings)
    assert without is not None
    both = join_outlines([row, without])[0]
    np.testing.assert_array_equal(both[:3], figures)
    assert np.isnan(both[3:]).all()


def test_of_many_outlines_the_first_have_copies() -> None:
    regions = [MarkedObject(str(k), "", disc(), False) for k in range(COPIED + 2)]
    looks = ObjectLooks(np.zeros((0, 4), np.float16), np.zeros((0, 12), np.float32), "v")
    proposed = looks, np.zeros((0, 16, 16), bool)
    figures, _ = measured(lambda: np.zeros((*HW, 3), np.uint8), proposed, nothing_told, regions)
    assert np.isfinite(figures[:, 0]).all()
    assert np.isfinite(figures[:, 1:]).all((1, 2)).tolist() == [True] * COPIED + [False] * 2


def test_targets_follow_the_papers_definitions() -> None:
    iou = np.array([[0.9, 0.2, 0.6, 0.5], [0.1, 0.8, 0.7, 0.1]], np.float32)
    samscore = np.array([[0.9, 0.1, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0]], np.float32)
    targets = object_targets("nano-s", iou, samscore)
    assert targets["iou_nano_s"] == pytest.approx([0.2, 0.6, 0.5])
    assert targets["iou_dense_prompt"] == pytest.approx([0.8] * 3)
    assert targets["iou_unsupervised"] == pytest.approx([0.5] * 3)
    assert targets["prompt_gap"] == pytest.approx([0.5 + 0.8 - 0.6] * 3)
    assert targets["task_gap"] == pytest.approx([0.5 + 0.6 - 0.5] * 3)
    assert larger_targets("nano-m", 0.9, 0.6) == {
        "iou_nano_m": pytest.approx([0.9] * 3),
        "model_gap": pytest.approx([0.8] * 3),
    }


def test_boxes_are_left_out_beside_pixels_and_unknown_targets_are_nan(
    model: LoadedModel, image: np.ndarray[Any, Any]
) -> None:
    annotated = AnnotatedImage(model, model.encode(image))
    (pixels,), _ = annotated.samples(Annotation(7, 3, "t", [brush()]))
    (box,), _ = annotated.samples(Annotation(8, 4, "t", [RECTANGLE]))
    assert to_batch([pixels, box])["groups"].tolist() == [3]
    assert to_batch([box])["groups"].tolist() == [4]
    more = replace(pixels, targets={**pixels.targets, "model_gap": [0.5] * 3})
    both = to_batch([pixels, more])
    assert np.isnan(both["targets"]["model_gap"][0]).all()
    assert (both["targets"]["model_gap"][1] == 0.5).all()


def test_hundreds_of_objects_on_a_photograph_are_not_all_held_at_once() -> None:
    """300 of them took 3.4 GB, before the sync was ended for want of memory."""
    hw = (1500, 2000)
    value = {"points": [[10, 10], [20, 10], [20, 20]], "polygonlabels": ["thing"]}
    result = [{"id": f"r{number}", "type": "polygonlabels", "value": value} for number in range(40)]
    tracemalloc.start()
    objects = marked_objects(drawn_masks(result)[0], hw)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(objects) == 40
    assert held < 1e6
    assert peak < 3 * hw[0] * hw[1]
    assert 0.004 < objects[7].mask.mean() < 0.006
