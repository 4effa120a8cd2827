"""Patched video predictors and bare models: scores come with every mask, and no mask changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from tests.usam.small_sam2 import model, picture, random_heads, video_model
from usam.errors import HeadsError
from usam.heads.head_set import HeadSet
from usam.predictor.patch import PatchedModel, PatchedVideoPredictor, patch_sam2, unpatch_sam2

FRAMES = 3
HW = (70, 90)


@pytest.fixture(scope="module")
def heads() -> HeadSet:
    return random_heads()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two folders of JPEG frames."""
    folders = []
    for video in range(2):
        folder = tmp_path_factory.mktemp("video")
        for index in range(FRAMES):
            Image.fromarray(picture(10 * video + index, HW)).save(folder / f"{index:05}.jpg")
        folders.append(str(folder))
    return folders


@pytest.fixture(autouse=True)
def _as_users_do() -> Iterator[None]:
    """SAM 2 keeps a video's memory in bfloat16 and runs on a CPU under autocast only."""
    with torch.autocast("cpu", torch.bfloat16):
        yield


@pytest.fixture
def predictor(heads: HeadSet) -> Iterator[Any]:
    patched = patch_sam2(video_model(), heads)
    yield patched
    unpatch_sam2(patched)


def session(predictor: Any, folder: str) -> list[tuple[Any, ...]]:
    """Everything a user does to a video; each step's (frame, ids, masks[, scores])."""
    state = predictor.init_state(folder)
    given = np.zeros(HW, bool)
    given[10:40, 20:50] = True
    steps = [
        predictor.add_new_points_or_box(state, 0, 7, points=[[30, 30]], labels=[1]),
        predictor.add_new_points_or_box(state, 0, "b", box=[30, 20, 60, 65]),
        predictor.add_new_mask(state, 1, 9, given),
        *predictor.propagate_in_video(state),
        predictor.add_new_points(state, 2, 7, points=[[50, 30]], labels=[0]),
        *predictor.propagate_in_video(state, start_frame_idx=2, reverse=True),
        predictor.clear_all_prompts_in_frame(state, 2, 7),
    ]
    ids, updated = predictor.remove_object(state, "b")
    steps += [(frame, list(ids), *rest) for frame, *rest in updated]
    return [(step[0], list(step[1]), *step[2:]) for step in steps]


def test_masks_are_the_unpatched_predictors_bit_for_bit(videos: list[str], heads: HeadSet) -> None:
    wanted = session(video_model(), videos[0])
    patched = patch_sam2(video_model(), heads)
    assert isinstance(patched, PatchedVideoPredictor)
    assert isinstance(patched, SAM2VideoPredictor)
    got = session(patched, videos[0])
    assert unpatch_sam2(patched) is patched
    assert type(patched) is SAM2VideoPredictor
    again = session(patched, videos[0])
    assert len(got) == len(again) == len(wanted)
    for (frame, ids, masks), ours, restored in zip(wanted, got, again, strict=True):
        assert ours[:2] == restored[:2] == (frame, ids)
        assert torch.equal(ours[2], masks)
        assert torch.equal(restored[2], masks)
        assert len(restored) == 3
        assert set(ours[3]) == set(heads.names)
        assert all(values.shape == (len(ids),) for values in ours[3].values())


def test_scores_are_those_of_the_tokens_behind_each_mask(videos: list[str], predictor: Any) -> None:
    state = predictor.init_state(videos[0])
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    predictor.add_new_points_or_box(state, 0, 2, box=[30, 20, 60, 65])
    seen = []
    for frame, ids, masks, scores in predictor.propagate_in_video(state):
        whole = predictor.frame_scores(state, frame)
        tokens = whole.tokens
        assert whole.obj_ids == ids == [1, 2]
        assert tokens.mask_tokens.shape == (2, 4, 256)
        every = predictor.heads.score(tokens.iou_token, tokens.mask_tokens, "all")
        output = tokens.output[:, 0].numpy()
        for name, values in scores.items():
            np.testing.assert_allclose(values, every[name][[0, 1], output], atol=1e-5)
        np.testing.assert_allclose(whole.ious, tokens.iou[:, 0].float(), atol=1e-6)
        assert np.isfinite(whole.object_logits).all()
        assert masks.shape == (2, 1, *HW)
        seen.append(output)
    assert len(seen) == FRAMES
    assert all(0 <= index <= 3 for output in seen for index in output)


def test_a_mask_that_a_person_gave_has_no_score(videos: list[str], predictor: Any) -> None:
    state = predictor.init_state(videos[0])
    predictor.add_new_points_or_box(state, 0, "clicked", points=[[30, 30]], labels=[1])
    *_, scores = predictor.add_new_mask(state, 0, "given", np.ones(HW, bool))
    assert np.isfinite(scores["task_gap"][0])
    assert np.isnan(scores["task_gap"][1])
    rows = {frame: values["task_gap"] for frame, _, _, values in predictor.propagate_in_video(state)}
    assert np.isnan(rows[0][1])
    assert np.isfinite(rows[1]).all()


def test_a_frame_without_the_object_has_no_score(videos: list[str], predictor: Any) -> None:
    state = predictor.init_state(videos[0])
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    *_, scores = predictor.add_new_points_or_box(state, 1, 2, points=[[40, 30]], labels=[1])
    assert np.isnan(scores["iou_large"][0])
    assert np.isfinite(scores["iou_large"][1])
    nothing = predictor.frame_scores(state, 2)
    assert np.isnan(nothing.scores["iou_large"]).all()
    assert np.isnan(nothing.ious).all()
    assert nothing.tokens is None


def test_taking_a_click_back_takes_its_score_back(videos: list[str], predictor: Any) -> None:
    state = predictor.init_state(videos[0])
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    before = {frame: scores for frame, _, _, scores in predictor.propagate_in_video(state)}
    *_, changed = predictor.add_new_points_or_box(state, 1, 1, points=[[5, 5]], labels=[0])
    assert changed["task_gap"] != before[1]["task_gap"]
    *_, back = predictor.clear_all_prompts_in_frame(state, 1, 1)
    assert back["task_gap"] == before[1]["task_gap"]


def test_two_videos_tracked_in_turns_do_not_mix(videos: list[str], predictor: Any) -> None:
    def start(folder: str) -> Any:
        state = predictor.init_state(folder)
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
        return predictor.propagate_in_video(state)

    alone = [[scores["task_gap"][0] for *_, scores in start(folder)] for folder in videos]
    turns = [[float(a[3]["task_gap"][0]), float(b[3]["task_gap"][0])] for a, b in zip(*map(start, videos), strict=True)]
    assert [list(column) for column in zip(*turns, strict=True)] == alone
    assert alone[0] != alone[1]


def test_heads_can_be_replaced_while_a_video_is_tracked(videos: list[str], predictor: Any, heads: HeadSet) -> None:
    state = predictor.init_state(videos[0])
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    names = []
    for _, _, _, scores in predictor.propagate_in_video(state):
        names.append(tuple(scores))
        predictor.set_heads(heads.subset(["task_gap"]) if len(names) == 1 else None)
    assert names == [heads.names, ("task_gap",), ()]


def test_heads_of_another_width_are_refused() -> None:
    with pytest.raises(HeadsError, match="width 256"):
        patch_sam2(video_model(), random_heads(128))
    assert type(video_model()) is SAM2VideoPredictor


def track(base: Any, multimask: bool = True) -> dict[str, Any]:
    """One frame with two objects, one click each, through `SAM2Base.track_step`."""
    torch.manual_seed(1)
    with torch.no_grad():
        backbone = base.forward_image(torch.randn(1, 3, 128, 128))
        backbone["backbone_fpn"] = [level.expand(2, -1, -1, -1) for level in backbone["backbone_fpn"]]
        backbone["vision_pos_enc"] = [level.expand(2, -1, -1, -1) for level in backbone["vision_pos_enc"]]
        _, feats, positions, sizes = base._prepare_backbone_features(backbone)
        points = torch.tensor([[[30.0, 30.0]], [[90.0, 60.0]]])
        if not multimask:
            points = points.repeat(1, 2, 1)
        out: dict[str, Any] = base.track_step(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=feats,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs={"point_coords": points, "point_labels": torch.ones(points.shape[:2], dtype=torch.int32)},
            mask_inputs=None,
            output_dict={"cond_frame_outputs": {}, "non_cond_frame_outputs": {}},
            num_frames=1,
        )
    return out


@pytest.mark.parametrize("multimask", [True, False])
def test_a_bare_model_scores_its_steps(heads: HeadSet, multimask: bool) -> None:
    base = model()
    wanted = track(base, multimask)
    patched = patch_sam2(base, heads)
    try:
        assert isinstance(patched, PatchedModel)
        got = track(patched, multimask)
        patched.set_heads(None)
        assert track(patched, multimask)["scores"] == {}
    finally:
        unpatch_sam2(patched)
    assert type(base) is SAM2Base
    for name in ("pred_masks", "pred_masks_high_res", "obj_ptr", "object_score_logits"):
        assert torch.equal(got[name], wanted[name])
    tokens = got["tokens"]
    every = heads.score(tokens.iou_token, tokens.mask_tokens, "all")
    output = tokens.output[:, 0].numpy()
    assert (output > 0).all() or not multimask
    for name, values in got["scores"].items():
        np.testing.assert_allclose(values.numpy(), every[name][[0, 1], output], atol=1e-5)
    np.testing.assert_array_equal(got["ious"].float(), tokens.iou[:, 0].float())


def test_a_patched_model_keeps_its_weights_names(heads: HeadSet) -> None:
    before = list(model().state_dict())
    patched = patch_sam2(model(), heads)
    assert list(patched.state_dict()) == before
    unpatch_sam2(patched)
