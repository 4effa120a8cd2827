"""Proposals against what `predict` and exact suppression give for the same points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sam2.sam2_image_predictor import SAM2ImagePredictor

import usam.predictor.proposals
from tests.usam.small_sam2 import IMAGE_HW, model, picture, random_heads
from usam.errors import HeadsError, ImageError, PromptError
from usam.masks import nms, pairwise_iou
from usam.predictor.patch import patch_sam2
from usam.predictor.proposals import Proposals, propose_masks
from usam.prompts import grid_points

POINTS = grid_points(IMAGE_HW, 3)
NMS_IOU = 0.9


@pytest.fixture(scope="module")
def predictor() -> Any:
    ours = patch_sam2(SAM2ImagePredictor(model()), random_heads())
    ours.set_image(picture())
    return ours


def one_by_one(predictor: Any, points: Any, quality: str | None = "iou_large") -> dict[str, Any]:
    """All candidates by `predict`: low_res (C, h, w), masks (C, H, W), rank, ious, prompt, column."""
    found: dict[str, list[Any]] = {name: [] for name in ("masks", "low_res", "ious", "rank", "prompt", "column")}
    for prompt, point in enumerate(points):
        masks, ious, low_res, scores = predictor.predict(point[None], [1])
        for column in range(3):
            rank = scores[quality][column] if quality else ious[column]
            values = masks[column] > 0, low_res[column], ious[column], rank, prompt, column
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def assert_candidates(got: Proposals, every: dict[str, Any], rows: Any) -> None:
    """Proposals are these candidates, in this order."""
    assert got.prompt.tolist() == every["prompt"][rows].tolist()
    assert got.column.tolist() == every["column"][rows].tolist()
    np.testing.assert_allclose(got.low_res, every["low_res"][rows], atol=1e-4)
    np.testing.assert_allclose(got.ious, every["ious"][rows], atol=1e-5)
    np.testing.assert_allclose(got.rank, every["rank"][rows], atol=1e-5)
    assert (got.masks != every["masks"][rows]).mean() < 1e-4


def kept_rows(every: dict[str, Any], pred_iou_thresh: float = 0.0, nms_iou: float = NMS_IOU) -> Any:
    there = np.flatnonzero((every["low_res"] > 0).any(axis=(1, 2)) & (every["rank"] >= pred_iou_thresh))
    return there[nms(every["low_res"][there] > 0, every["rank"][there], nms_iou)]


def test_proposals_are_what_exact_suppression_keeps_of_predicts_masks(predictor: Any) -> None:
    every = one_by_one(predictor, POINTS)
    got = propose_masks(predictor, POINTS, nms_iou=NMS_IOU)
    rows = kept_rows(every)
    assert 1 < len(rows) < len(every["rank"])
    assert_candidates(got, every, rows)
    assert np.array_equal(got.points, POINTS[got.prompt])
    tokens = predictor.predict_tokens(got.points[:, None], np.ones((len(got), 1)))
    np.testing.assert_allclose(got.mask_tokens, tokens.mask_tokens, atol=1e-5)
    np.testing.assert_allclose(got.iou_token, tokens.iou_token, atol=1e-5)
    scores = predictor.heads.score(got.iou_token, got.mask_tokens)
    for name, values in got.scores.items():
        np.testing.assert_allclose(values, scores[name][np.arange(len(got)), got.column], atol=1e-5)


def test_worse_and_surplus_masks_go(predictor: Any) -> None:
    every = one_by_one(predictor, POINTS)
    pred_iou_thresh = float(np.median(every["rank"]))
    got = propose_masks(predictor, POINTS, nms_iou=NMS_IOU, pred_iou_thresh=pred_iou_thresh, max_masks=2)
    assert_candidates(got, every, kept_rows(every, pred_iou_thresh)[:2])
    nothing = propose_masks(predictor, POINTS, pred_iou_thresh=1.1)
    assert len(nothing) == 0
    assert nothing.masks.shape == (0, *IMAGE_HW)
    assert set(nothing.scores) == set(predictor.heads.names)


def test_work_in_groups_gives_the_same(predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = propose_masks(predictor, POINTS, nms_iou=NMS_IOU)
    monkeypatch.setattr(usam.predictor.proposals, "HELD_BYTES", 2 * 256 * 64 * 4)
    parts = propose_masks(predictor, POINTS, nms_iou=NMS_IOU)
    assert (parts.prompt[0], parts.column[0]) == (whole.prompt[0], whole.column[0])
    masks = parts.low_res > 0
    overlaps = pairwise_iou(masks) - np.eye(len(masks))
    assert overlaps.max() <= NMS_IOU
    assert set(parts.prompt.tolist()) <= set(range(len(POINTS)))
    np.testing.assert_array_equal(parts.points, POINTS[parts.prompt])
    scores = predictor.heads.score(parts.iou_token, parts.mask_tokens)
    for name, values in parts.scores.items():
        np.testing.assert_allclose(values, scores[name][np.arange(len(parts)), parts.column], atol=1e-5)


def test_sampling_first_loses_nothing_that_differs() -> None:
    """At 512 px near-copies go by sampled masks: every mask that is lost resembles a better one that stays."""
    ours = patch_sam2(SAM2ImagePredictor(model(512)), random_heads())
    ours.set_image(picture(1, (100, 140)))
    points = grid_points((100, 140), 2)
    assert ours.model.sam_image_embedding_size >= usam.predictor.proposals.SAMPLED_SIDE
    every = one_by_one(ours, points)
    got = propose_masks(ours, points, nms_iou=NMS_IOU)
    rows = [3 * p + c for p, c in zip(got.prompt, got.column, strict=True)]
    assert_candidates(got, every, rows)
    assert 1 < len(rows) < len(every["rank"])
    overlaps = pairwise_iou(every["low_res"] > 0)
    assert (overlaps[np.ix_(rows, rows)] - np.eye(len(rows))).max() <= NMS_IOU
    for lost in set(range(len(every["rank"]))) - set(rows):
        better = [row for row in rows if every["rank"][row] >= every["rank"][lost]]
        assert overlaps[lost, better].max() > NMS_IOU


def test_without_heads_sams_own_estimate_ranks() -> None:
    ours = patch_sam2(SAM2ImagePredictor(model()))
    ours.set_image(picture())
    every = one_by_one(ours, POINTS, quality=None)
    got = propose_masks(ours, POINTS, nms_iou=NMS_IOU)
    assert_candidates(got, every, kept_rows(every))
    assert got.scores == {}
    assert np.array_equal(got.rank, got.ious)


def test_a_single_mask_per_point_is_output_zero(predictor: Any) -> None:
    got = propose_masks(predictor, POINTS, multimask=False, nms_iou=1.0)
    assert set(got.column.tolist()) == {0}
    scores = predictor.heads.score(got.iou_token, got.mask_tokens, "single")
    np.testing.assert_allclose(got.scores["task_gap"], scores["task_gap"][:, 0], atol=1e-5)
    tokens = predictor.predict_tokens(got.points[:, None], np.ones((len(got), 1)))
    np.testing.assert_allclose(got.ious, tokens.ious[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([[1, 2, 3]], {}, "shape"),
        ([1, 2], {}, r"points \(P, 2\)"),
        (np.zeros((0, 2)), {}, "at least one point"),
        ([[500, 1]], {}, "0 <= x < 130"),
        ([[1, 1]], {"nms_iou": 2}, "nms_iou from 0 to 1"),
        ([[1, 1]], {"max_masks": 0}, "above 0, or None, as max_masks"),
        ([[1, 1]], {"max_masks": 1.5}, "max_masks"),
        ([[1, 1]], {"pred_iou_thresh": float("nan")}, "pred_iou_thresh"),
        ([["a", "b"]], {}, "as numbers"),
    ],
)
def test_bad_points_and_limits_are_refused(predictor: Any, points: Any, options: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        propose_masks(predictor, points, **options)


def test_without_an_image_nothing_is_proposed() -> None:
    with pytest.raises(ImageError, match="set_image"):
        propose_masks(patch_sam2(SAM2ImagePredictor(model())), POINTS)


def test_tokens_that_are_not_finite_are_an_error() -> None:
    ours = patch_sam2(SAM2ImagePredictor(model()), random_heads())
    ours.set_image(picture())
    ours._features["image_embed"] = ours._features["image_embed"] * np.nan
    with pytest.raises(HeadsError, match="finite tokens"):
        propose_masks(ours, POINTS)
