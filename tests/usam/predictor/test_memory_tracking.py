"""SAM 2's video memory frame by frame: the masks of its own video predictor, within a bounded memory, for streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import usam
from tests.usam.small_sam2 import picture, seeing, set_object_bias
from usam.errors import ImageError, PromptError, UsamError
from usam.predictor.memory_tracking import MemoryTracker, VideoMemory, tracker_for
from usam.predictor.tracking import MaskTracker, TrackedFrame
from usam.prompts import Prompt

COUNT, HW, SIDE = 20, (70, 90), 128
"""More frames than object pointers are kept of; fewer change what the video predictor attends to."""
FRAMES = [picture(number // 3, HW) for number in range(COUNT)]
TOLERANCE = 2e-5
"""Of logits. A wrong or a missing memory changes them by 100 times as much and more."""
FIRST = Prompt([[30, 30]], [1])


@pytest.fixture(scope="module")
def predictor() -> Any:
    return seeing()


@pytest.fixture(scope="module")
def base(predictor: Any) -> Any:
    return predictor.model


@pytest.fixture(scope="module")
def sam2_video(base: Any) -> Any:
    """SAM 2's own video predictor as its `build_sam2_video_predictor` makes it, with the same weights; what is clicked
    becomes a conditioning frame."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__path__[0]) / "configs/sam2.1/sam2.1_hiera_t.yaml").model
    config._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    config.image_size, config.sam_mask_decoder_extra_args = SIDE, base.sam_mask_decoder_extra_args
    config.binarize_mask_from_pts_for_mem_enc = config.add_all_frames_to_correct_as_cond = True
    OmegaConf.resolve(config)
    predictor = instantiate(config, _recursive_=True).eval()
    predictor.load_state_dict(base.state_dict())
    return predictor


@pytest.fixture(autouse=True)
def _visible(base: Any, sam2_video: Any) -> None:
    """The object is in every frame, unless a test says otherwise."""
    set_object_bias(5.0, base, sam2_video)


def state_of(sam2_video: Any, predictor: Any, frames: list[Any], folder: Path) -> Any:
    """The video predictor's state for frames, scaled as the image predictor scales them rather than as JPEG."""
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05}.jpg")
    state = sam2_video.init_state(str(folder))
    state["images"] = torch.stack([predictor._transforms(frame) for frame in frames])
    state["cached_features"] = {}
    return state


def low_res_of(state: Any, number: int) -> Any:
    outputs = state["output_dict_per_obj"][0]
    return (outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"])[number]["pred_masks"]


def followed(tracker: Any, frames: list[Any], prompt: Prompt = FIRST) -> tuple[list[TrackedFrame], list[Any]]:
    seen, logits = [tracker.begin(frames[0], prompt)], [tracker._low_res]
    for frame in frames[1:]:
        seen.append(tracker.follow(frame))
        logits.append(tracker._low_res)
    return seen, logits


@pytest.mark.parametrize("prompt", [FIRST, Prompt([[50, 40], [5, 5]], [1, 0], [30, 20, 60, 65])])
def test_masks_are_those_of_sam_2s_video_predictor(
    predictor: Any, sam2_video: Any, tmp_path: Path, prompt: Prompt
) -> None:
    state = state_of(sam2_video, predictor, FRAMES, tmp_path)
    sam2_video.add_new_points_or_box(state, 0, 1, points=prompt.points, labels=prompt.labels, box=prompt.box)
    wanted = [masks[0, 0].numpy() > 0 for _, _, masks in sam2_video.propagate_in_video(state)]
    seen, logits = followed(MemoryTracker(predictor), FRAMES, prompt)
    for number in range(COUNT):
        torch.testing.assert_close(logits[number], low_res_of(state, number), atol=TOLERANCE, rtol=0)
        assert (seen[number].mask != wanted[number]).mean() < 1e-3
        assert seen[number].is_found == wanted[number].any()
    assert len({one.mask.tobytes() for one in seen}) > COUNT / 2, "masks that differ"


def test_an_object_that_leaves_and_comes_back_as_the_video_predictor_has_it(
    base: Any, predictor: Any, sam2_video: Any, tmp_path: Path
) -> None:
    """Out of sight on frames 5 to 9, by an object score that is forced for both."""
    state = state_of(sam2_video, predictor, FRAMES, tmp_path)
    sam2_video.add_new_points_or_box(state, 0, 1, points=FIRST.points, labels=FIRST.labels)
    tracker = MemoryTracker(predictor)
    seen, low_res = followed(tracker, FRAMES[:1])
    for first, last, bias in ((0, 4, 5.0), (5, 9, -100.0), (10, COUNT - 1, 5.0)):
        set_object_bias(bias, base, sam2_video)
        list(sam2_video.propagate_in_video(state, start_frame_idx=first, max_frame_num_to_track=last - first))
        for frame in FRAMES[max(first, 1) : last + 1]:
            seen.append(tracker.follow(frame))
            low_res.append(tracker._low_res)
    _, undisturbed = followed(MemoryTracker(predictor), FRAMES)
    for number, one in enumerate(seen):
        torch.testing.assert_close(low_res[number], low_res_of(state, number), atol=TOLERANCE, rtol=0)
        assert one.is_found is not one.is_out_of_sight
        assert one.is_out_of_sight == (5 <= number <= 9)
        if one.is_out_of_sight:
            assert (one.iou, one.mask.any(), one.scores) == (0.0, False, {})
    assert not torch.allclose(low_res[10], undisturbed[10], atol=TOLERANCE), "its absence is remembered"


def test_corrections_on_later_frames_are_the_video_predictors(predictor: Any, sam2_video: Any, tmp_path: Path) -> None:
    """A click more on the first frame; on a later one a negative and then a positive one; and one on a third."""
    clicks = [(0, (50, 40), 1), (4, (20, 20), 0), (4, (60, 50), 1), (11, (40, 20), 0)]
    state = state_of(sam2_video, predictor, FRAMES, tmp_path)
    sam2_video.add_new_points_or_box(state, 0, 1, points=FIRST.points, labels=FIRST.labels)
    tracker = MemoryTracker(predictor)
    seen = {0: tracker.begin(FRAMES[0], FIRST)}
    logits, last = {0: tracker._low_res}, 0
    for number, xy, sign in [*clicks, (COUNT - 1, None, None)]:
        for index in range(last + 1, number + 1):
            seen[index], logits[index] = tracker.follow(FRAMES[index]), tracker._low_res
        if number > last:
            list(sam2_video.propagate_in_video(state, start_frame_idx=last, max_frame_num_to_track=number - last))
        last = number
        if xy is not None:
            before = seen[number]
            sam2_video.add_new_points_or_box(state, number, 1, points=[xy], labels=[sign], clear_old_points=False)
            seen[number], logits[number] = tracker.correct(Prompt([xy], [sign])), tracker._low_res
            assert (seen[number].mask != before.mask).any()
    assert sorted(tracker.memory.clicked) == sorted(state["output_dict_per_obj"][0]["cond_frame_outputs"]) == [0, 4, 11]
    for number in range(COUNT):
        torch.testing.assert_close(logits[number], low_res_of(state, number), atol=TOLERANCE, rtol=0)


def test_dropped_frames_do_not_count(predictor: Any) -> None:
    """Every other frame of a stream is followed as a video of these frames alone would be."""
    stream = iter(FRAMES)
    tracker = MemoryTracker(predictor)
    tracker.begin(next(stream), FIRST)
    some = []
    for number, frame in enumerate(stream, 1):
        if number % 2 == 0:
            tracker.follow(frame)
            some.append(tracker._low_res)
    _, logits = followed(MemoryTracker(predictor), FRAMES[::2])
    assert all(torch.equal(*pair) for pair in zip(some, logits[1:], strict=True))


def test_memory_is_bounded_and_the_first_click_is_never_forgotten(predictor: Any) -> None:
    tracker = MemoryTracker(predictor, max_corrections=2)
    tracker.begin(FRAMES[0], FIRST)
    first = tracker.memory.clicked[0]["maskmem_features"]
    sizes = []
    for number in range(1, 33):
        tracker.follow(FRAMES[number % COUNT])
        if number in (3, 6, 9, 12):
            tracker.correct(Prompt([[40, 20]], [0]))
        memory = tracker.memory
        assert memory.clicked[0]["maskmem_features"] is first
        assert len(memory.clicked) <= 3
        assert len(memory.followed) <= 16, "this frame, and the object pointers that SAM 2 looks at"
        assert sum("maskmem_features" in one for one in memory.followed.values()) <= 7
        sizes.append(memory.nbytes)
    assert sorted(tracker.memory.clicked) == [0, 9, 12]
    assert len(set(sizes[28:])) == 1, sizes
    assert min(tracker.memory.followed) == 32 - 15


def test_what_is_forgotten_is_never_looked_at(predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, logits = followed(MemoryTracker(predictor), FRAMES)
    monkeypatch.setattr(VideoMemory, "of", classmethod(lambda cls, *_: cls(10**6, 10**6)))
    _, unbounded = followed(MemoryTracker(predictor), FRAMES)
    assert all(torch.equal(*pair) for pair in zip(logits, unbounded, strict=True))


def test_scores_are_the_heads_of_the_very_mask(predictor: Any) -> None:
    seen, _ = followed(MemoryTracker(predictor), FRAMES[:3])
    names = predictor.heads.names
    assert all(tuple(one.scores) == names for one in seen)
    assert all(one.iou == one.scores["iou_large"] for one in seen)
    assert set(seen[1].gaps) == {name for name in names if name.endswith("_gap")}
    assert seen[0].scores != seen[1].scores
    predictor.set_image(FRAMES[0])
    masks, _, _, scores = predictor.predict([[30, 30]], [1])
    alike = [float((mask.astype(bool) == seen[0].mask).mean()) for mask in masks]
    best = int(np.argmax(alike))
    assert alike[best] == 1.0
    assert scores["task_gap"][best] == pytest.approx(seen[0].scores["task_gap"], abs=1e-4)


def test_a_new_click_begins_anew(predictor: Any) -> None:
    tracker = MemoryTracker(predictor)
    followed(tracker, FRAMES[:6])
    other = Prompt([[70, 50]], [1])
    seen, again = followed(tracker, FRAMES[6:12], other)
    fresh, logits = followed(MemoryTracker(predictor), FRAMES[6:12], other)
    assert all(torch.equal(*pair) for pair in zip(again, logits, strict=True))
    assert [one.iou for one in seen] == [one.iou for one in fresh]


def test_two_objects_share_one_encoding_and_one_model_that_stays_as_it_is(predictor: Any, base: Any) -> None:
    kind, weights = type(base), {name: value.clone() for name, value in base.state_dict().items()}
    alone = [followed(MemoryTracker(predictor), FRAMES[:4], Prompt([xy], [1]))[1] for xy in ([30, 30], [70, 50])]
    trackers = [MemoryTracker(predictor), MemoryTracker(predictor)]
    trackers[0].begin(FRAMES[0], Prompt([[30, 30]], [1]))
    trackers[1].begin(FRAMES[0], Prompt([[70, 50]], [1]), is_encoded=True)
    for number in range(1, 4):
        for index, tracker in enumerate(trackers):
            tracker.follow(FRAMES[number], is_encoded=index > 0)
            assert torch.equal(tracker._low_res, alone[index][number])  # type: ignore[arg-type]
    assert type(base) is kind
    assert all(torch.equal(value, weights[name]) for name, value in base.state_dict().items())
    assert not base.binarize_mask_from_pts_for_mem_enc


def test_in_bfloat16_masks_are_nearly_the_same(predictor: Any) -> None:
    wanted, _ = followed(MemoryTracker(predictor), FRAMES[:4])
    predictor.encoder_dtype = torch.bfloat16
    try:
        seen, _ = followed(MemoryTracker(predictor), FRAMES[:4])
    finally:
        predictor.encoder_dtype = None
    assert np.mean([(one.mask == other.mask).mean() for one, other in zip(seen, wanted, strict=True)]) > 0.95


def test_what_cannot_be_followed_is_said(predictor: Any) -> None:
    tracker = MemoryTracker(predictor)
    for call in (lambda: tracker.follow(FRAMES[0]), lambda: tracker.correct(FIRST)):
        with pytest.raises(ImageError, match="call begin first"):
            call()
    with pytest.raises(PromptError):
        tracker.begin(FRAMES[0], Prompt([[500, 10]], [1]))
    assert not tracker.has_begun
    tracker.begin(FRAMES[0], FIRST)
    assert tracker.has_begun
    with pytest.raises(ImageError, match="frames of 90 x 70 pixels, got one of 60 x 50"):
        tracker.follow(np.ascontiguousarray(FRAMES[0][:50, :60]))
    with pytest.raises(PromptError):
        tracker.correct(Prompt([[500, 10]], [1]))
    with pytest.raises(PromptError, match="begin again with the box"):
        tracker.correct(Prompt([[40, 30]], [1], [10, 10, 20, 20]))
    assert tracker.follow(FRAMES[1]).is_found, "the object is still known"


def test_a_model_without_memory_follows_by_the_mask_before(predictor: Any) -> None:
    nano = usam.load("nano-s")
    assert isinstance(tracker_for(nano, margin=0.2), MaskTracker)
    assert isinstance(tracker_for(predictor, margin=0.2), MemoryTracker)
    with pytest.raises(UsamError, match="a SAM 2 checkpoint, got nano-s"):
        MemoryTracker(nano)
