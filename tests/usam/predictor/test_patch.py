"""Patched image predictors: the unpatched predictor's masks to the bit, and the right scores beside them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from tests.usam.small_sam2 import model, picture, plain, random_heads
from usam.errors import CheckpointError, HeadsError, ImageError, PromptError, UsamError
from usam.heads.head_set import HeadSet
from usam.predictor.patch import PatchedImagePredictor, patch_sam2, unpatch_sam2

_RANDOM = np.random.default_rng(0)
_LOW_RES = _RANDOM.normal(0, 4, (3, 1, 32, 32)).astype(np.float32)
_POINTS = _RANDOM.uniform(0, 90, (3, 2, 2))
_BOXES = np.array([[5, 5, 60, 70], [0, 0, 130, 90], [30, 40, 50, 60]])

PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": [[50, 60]], "point_labels": [1]},
    "points": {"point_coords": np.array([[50, 60], [3.5, 4]]), "point_labels": np.array([1, 0])},
    "box": {"box": np.array([10, 10, 100, 80])},
    "points and box": {"point_coords": [[50, 60]], "point_labels": [1], "box": [10, 10, 100, 80]},
    "mask": {"mask_input": _LOW_RES[0]},
    "points and mask": {"point_coords": [[50, 60]], "point_labels": [0], "mask_input": _LOW_RES[1]},
    "many points": {"point_coords": _RANDOM.uniform(0, 90, (40, 2)), "point_labels": np.ones(40, np.int64)},
    "several points": {"point_coords": _POINTS, "point_labels": np.array([[1, 0], [1, 1], [1, -1]])},
    "several boxes": {"box": _BOXES},
    "several of all": {
        "point_coords": _POINTS,
        "point_labels": np.ones((3, 2)),
        "box": _BOXES,
        "mask_input": _LOW_RES,
    },
}
_prompts = pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())


@pytest.fixture(scope="module")
def heads() -> HeadSet:
    return random_heads()


@pytest.fixture(scope="module")
def encoded(heads: HeadSet) -> tuple[Any, Any]:
    """A plain and a patched predictor on the same image, which each has encoded; not to be changed."""
    image = picture()
    ours, theirs = patch_sam2(SAM2ImagePredictor(model()), heads), plain()
    ours.set_image(image)
    theirs.set_image(image)
    return theirs, ours


@pytest.fixture
def pair(encoded: tuple[Any, Any], heads: HeadSet) -> tuple[Any, Any]:
    """A plain and a patched predictor on the same image, new ones with what was encoded once."""
    ours, theirs = patch_sam2(SAM2ImagePredictor(model()), heads), plain()
    for new, old in zip((theirs, ours), encoded, strict=True):
        new._features, new._orig_hw = dict(old._features), list(old._orig_hw)
        new._is_image_set = True
    ours._stages = encoded[1]._stages
    return theirs, ours


def assert_same(theirs: Any, ours: Any) -> None:
    for wanted, got in zip(theirs, ours[:3], strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(wanted, got)


def assert_close(got: Any, wanted: Any, atol: float = 1e-5) -> None:
    """Equal up to rounding; `got` may have a leading axis of one prompt."""
    np.testing.assert_allclose(np.asarray(got).reshape(wanted.shape), wanted, atol=atol, rtol=0)


@_prompts
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_are_the_unpatched_predictors_bit_for_bit(
    pair: tuple[Any, Any], prompt: dict[str, Any], multimask: bool
) -> None:
    theirs, ours = pair
    options = {**prompt, "multimask_output": multimask}
    wanted = theirs.predict(**{key: np.asarray(value) for key, value in options.items()})
    for _ in range(2):
        got = ours.predict(**options)
        assert_same(wanted, got)
        assert all(values.shape == wanted[1].shape for values in got[3].values())
    assert_same(theirs.predict(**options, return_logits=True), ours.predict(**options, return_logits=True))


@_prompts
@pytest.mark.parametrize("alignment", ["aligned", "shifted"])
def test_scores_are_those_of_the_tokens_behind_each_mask(
    pair: tuple[Any, Any], prompt: dict[str, Any], alignment: Any
) -> None:
    ours = pair[1]
    ours.set_heads(random_heads(alignment=alignment))
    _, ious, _, scores = ours.predict(**prompt)
    tokens = ours.predict_tokens(**prompt)
    assert tokens.iou_token.shape[1:] == (256,)
    assert tokens.mask_tokens.shape[1:] == (4, 256)
    assert_close(tokens.ious[:, 1:], ious)
    for name, wanted in ours.heads.score(tokens.iou_token, tokens.mask_tokens).items():
        assert_close(wanted, scores[name])
    ious_only, scores_only = ours.predict_scores(**prompt)
    assert ious_only.shape == (len(tokens.ious), 3)
    assert_close(ious_only, ious)
    for name, values in scores_only.items():
        assert_close(values, scores[name], 1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_tokens_do_not_depend_on_how_many_are_decoded_at_a_time(pair: tuple[Any, Any], chunk: int) -> None:
    ours = pair[1]
    points, labels = _RANDOM.uniform(0, 90, (5, 1, 2)), np.ones((5, 1))
    whole = ours.predict_tokens(points, labels)
    ours.chunk = chunk
    parts = ours.predict_tokens(points, labels)
    torch.testing.assert_close(parts.mask_tokens, whole.mask_tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.iou_token, whole.iou_token, atol=1e-5, rtol=0)


@pytest.fixture
def stability() -> Iterator[Any]:
    """The decoder's threshold below which a single mask gives way to one of three, to be set by a test."""
    decoder = model().sam_mask_decoder
    before = decoder.dynamic_multimask_stability_thresh
    yield decoder
    decoder.dynamic_multimask_stability_thresh = before


@pytest.mark.parametrize("threshold", [0.0, 1.1])
@pytest.mark.parametrize("alignment", ["aligned", "shifted"])
def test_a_single_mask_is_scored_by_the_output_that_became_it(
    pair: tuple[Any, Any], stability: Any, threshold: float, alignment: Any
) -> None:
    theirs, ours = pair
    stability.dynamic_multimask_stability_thresh = threshold
    ours.set_heads(random_heads(alignment=alignment))
    prompt = {"point_coords": _POINTS, "point_labels": np.ones((3, 2))}
    got = ours.predict(**prompt, multimask_output=False)
    assert_same(theirs.predict(**prompt, multimask_output=False), got)
    tokens = ours.predict_tokens(**prompt)
    scores = ours.heads.score(tokens.iou_token, tokens.mask_tokens, "all")
    output = np.zeros(3, int) if threshold == 0 else 1 + tokens.ious[:, 1:].numpy().argmax(1)
    for name, values in got[3].items():
        assert values.shape == (3, 1)
        np.testing.assert_allclose(values[:, 0], scores[name][np.arange(3), output], atol=1e-5)


def test_without_heads_there_are_masks_and_no_scores(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    ours.set_heads(None)
    got = ours.predict(**PROMPTS["point"])
    assert_same(theirs.predict(**PROMPTS["point"]), got)
    assert got[3] == {}
    assert ours.predict_scores(**PROMPTS["point"])[1] == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_masks_are_still_the_unpatched_predictors(pair: tuple[Any, Any], dtype: torch.dtype) -> None:
    theirs, ours = pair
    before = ours.predict(**PROMPTS["points"])
    with torch.autocast("cpu", dtype):
        theirs.set_image(picture())
        ours.set_image(picture())
        for prompt in PROMPTS.values():
            got = ours.predict(**prompt)
            assert_same(theirs.predict(**{key: np.asarray(value) for key, value in prompt.items()}), got)
            scores = ours.predict_scores(**prompt)[1]
            for name, values in got[3].items():
                assert_close(scores[name], values, 0.02)
    ours.set_image(picture())
    assert_same(before[:3], ours.predict(**PROMPTS["points"]))


def test_autocast_on_a_known_image_does_not_leak_into_float32(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    wanted = theirs.predict(**PROMPTS["box"])
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(theirs.predict(**PROMPTS["box"]), ours.predict(**PROMPTS["box"]))
    assert_same(wanted, ours.predict(**PROMPTS["box"]))


def test_images_interleaved_on_one_predictor_do_not_mix(heads: HeadSet) -> None:
    ours, theirs = patch_sam2(SAM2ImagePredictor(model()), heads), plain()
    wanted, kept = [], []
    for seed in range(2):
        theirs.set_image(picture(seed))
        wanted.append(theirs.predict(**PROMPTS["points"]))
        ours.set_image(picture(seed))
        kept.append(ours.embedding())
    for index in (0, 1, 1, 0, 1):
        ours.set_embedding(kept[index])
        assert_same(wanted[index], ours.predict(**PROMPTS["points"]))


def test_threads_on_predictors_of_one_model_do_not_mix(heads: HeadSet) -> None:
    images = [picture(seed, (70 + 9 * seed, 90)) for seed in range(2)]
    predictors = [patch_sam2(SAM2ImagePredictor(model()), heads) for _ in images]
    prompts = [{"point_coords": [[10 * i + 5, 30]], "point_labels": [1]} for i in range(6)]
    wanted = []
    for predictor, image in zip(predictors, images, strict=True):
        predictor.set_image(image)
        wanted.append([predictor.predict(**prompt) for prompt in prompts])
    failures: list[str] = []
    ready = threading.Barrier(2)

    def work(index: int) -> None:
        ready.wait()
        for _ in range(5):
            predictors[index].set_image(images[index])
            for prompt, (masks, ious, _, scores) in zip(prompts, wanted[index], strict=True):
                got = predictors[index].predict(**prompt)
                same = np.array_equal(masks, got[0]) and np.array_equal(ious, got[1])
                if not same or any(not np.array_equal(scores[name], got[3][name]) for name in scores):
                    failures.append(f"thread {index}: {prompt}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_heads_replaced_while_predicting_are_never_half_replaced(pair: tuple[Any, Any]) -> None:
    ours = pair[1]
    sets = [random_heads(seed=1).subset(["task_gap"]), random_heads(seed=2).subset(["iou_tiny", "model_gap"])]
    wanted = []
    for heads in sets:
        ours.set_heads(heads)
        wanted.append(ours.predict(**PROMPTS["point"])[3])
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for heads in sets:
                ours.set_heads(heads)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(20):
            scores = ours.predict(**PROMPTS["point"])[3]
            match = next(w for w in wanted if set(w) == set(scores))
            for name, values in scores.items():
                assert np.array_equal(values, match[name])
    finally:
        stop.set()
        thread.join()


def test_weights_changed_after_an_image_was_set_are_seen() -> None:
    base = copy.deepcopy(model())
    ours, theirs = patch_sam2(SAM2ImagePredictor(base)), plain(base)
    ours.set_image(picture())
    theirs.set_image(picture())
    ours.predict(**PROMPTS["point"])
    attention = base.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    for change in (lambda w: w.mul_(-2), lambda w: w.copy_(w.roll(1, 0))):
        with torch.no_grad():
            change(attention.k_proj.weight)
        wanted = theirs.predict(**PROMPTS["point"])
        assert_same(wanted, ours.predict(**PROMPTS["point"]))
        np.testing.assert_allclose(ours.predict_scores(**PROMPTS["point"])[0][0], wanted[1], atol=1e-5)


def test_hooks_on_the_transformer_are_still_called(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    calls: list[Any] = []
    attention = model().sam_mask_decoder.transformer.final_attn_token_to_image
    with attention.register_forward_hook(lambda *_: calls.append(1)):
        got = ours.predict(**PROMPTS["point"])
        tokens = ours.predict_tokens(**PROMPTS["point"])
    assert len(calls) == 2
    assert_same(theirs.predict(**PROMPTS["point"]), got)
    np.testing.assert_allclose(tokens.ious[0, 1:], got[1], atol=1e-5)


def test_a_nano_model_is_patched_like_the_others() -> None:
    from usam.checkpoints.nano import build_nano

    torch.manual_seed(0)
    base = build_nano("nano-s")
    ours, theirs = patch_sam2(SAM2ImagePredictor(base), random_heads(128)), plain(base)
    ours.set_image(picture())
    theirs.set_image(picture())
    prompt = {"point_coords": _POINTS, "point_labels": np.ones((3, 2)), "box": _BOXES}
    for options in ({"point_coords": [[9, 9]], "point_labels": [1]}, prompt):
        got = ours.predict(**options)
        assert_same(theirs.predict(**{key: np.asarray(value) for key, value in options.items()}), got)
        ious, scores = ours.predict_scores(**options)
        assert_close(ious, got[1])
        assert_close(scores["task_gap"], got[3]["task_gap"], 1e-4)
    with pytest.raises(HeadsError, match="width 128"):
        ours.set_heads(random_heads(256))


def test_batches_of_images_are_scored_too(heads: HeadSet) -> None:
    ours, theirs = patch_sam2(SAM2ImagePredictor(model()), heads), plain()
    images = [picture(seed, (60 + seed, 80)) for seed in range(2)]
    points, labels = [np.array([[5, 5]]), np.array([[[9, 9]], [[8, 30]]])], [np.ones(1), np.ones((2, 1))]
    ours.set_image_batch(images)
    theirs.set_image_batch(images)
    wanted = theirs.predict_batch(points, labels)
    masks, ious, low_res, scores = ours.predict_batch(points, labels)
    for index in range(2):
        assert_same([part[index] for part in wanted], [part[index] for part in (masks, ious, low_res)])
        assert scores[index]["task_gap"].shape == ious[index].shape
    ours.set_image(images[1])
    alone = ours.predict(points[1], labels[1])
    np.testing.assert_allclose(scores[1]["task_gap"], alone[3]["task_gap"], atol=1e-5)
    with pytest.raises(ImageError, match="set_image_batch"):
        ours.predict_batch(points, labels)


def test_an_embedding_moves_between_predictors(pair: tuple[Any, Any], heads: HeadSet) -> None:
    theirs, ours = pair
    embedding = ours.embedding()
    assert embedding.image_hw == (90, 130)
    assert embedding.nbytes == 4 * (256 * 8 * 8 + 32 * 32 * 32 + 64 * 16 * 16)
    other = patch_sam2(SAM2ImagePredictor(model()), heads)
    other.set_image(picture(5))
    other.set_embedding(embedding)
    assert_same(theirs.predict(**PROMPTS["several boxes"]), other.predict(**PROMPTS["several boxes"]))
    half = embedding.to(dtype=torch.bfloat16)
    assert half.nbytes * 2 == embedding.nbytes
    other.set_embedding(half)
    np.testing.assert_allclose(other.predict(**PROMPTS["point"])[1], ours.predict(**PROMPTS["point"])[1], atol=0.05)


def test_an_embedding_of_another_model_is_refused(pair: tuple[Any, Any]) -> None:
    ours = pair[1]
    embedding = ours.embedding()
    ours.checkpoint_name = "sam2.1_hiera_tiny"
    with pytest.raises(CheckpointError, match=r"one by sam2\.1_hiera_large"):
        ours.set_embedding(replace(embedding, checkpoint="sam2.1_hiera_large"))
    with pytest.raises(CheckpointError, match=r"\(1, 256, 8, 8\)"):
        ours.set_embedding(replace(embedding, image_embed=torch.zeros(1, 256, 4, 4)))
    assert ours.predict(**PROMPTS["point"])[0].shape == (3, 90, 130)


class OwnPredictor(SAM2ImagePredictor):  # type: ignore[misc]
    """A user's own predictor."""

    def greet(self) -> str:
        return "hello"


@pytest.mark.parametrize("kind", [SAM2ImagePredictor, OwnPredictor])
def test_unpatching_restores_the_object(kind: Any, heads: HeadSet) -> None:
    predictor = kind(model())
    before = dict(vars(predictor))
    assert patch_sam2(predictor, heads) is predictor
    assert isinstance(predictor, PatchedImagePredictor)
    assert isinstance(predictor, kind)
    assert predictor.checkpoint_name is None
    predictor.encoder_dtype, predictor.chunk = torch.bfloat16, 3
    predictor.set_image(picture())
    predictor.predict(**PROMPTS["point"])
    assert unpatch_sam2(predictor) is predictor
    assert type(predictor) is kind
    predictor.reset_predictor()
    assert vars(predictor) == before
    assert unpatch_sam2(predictor) is predictor


def test_patching_again_replaces_the_heads(pair: tuple[Any, Any], heads: HeadSet) -> None:
    ours = pair[1]
    part = heads.subset(["task_gap"])
    assert patch_sam2(ours, part) is ours
    assert ours.heads is part
    assert tuple(ours.predict(**PROMPTS["point"])[3]) == ("task_gap",)


def test_heads_come_from_a_folder_too(tmp_path: Any, heads: HeadSet) -> None:
    heads.save(tmp_path)
    assert patch_sam2(plain(), str(tmp_path)).heads.version == heads.version


def test_heads_of_another_checkpoint_are_refused_and_nothing_is_patched() -> None:
    predictor = plain()
    predictor.checkpoint_name = "sam2.1_hiera_tiny"
    before = dict(vars(predictor))
    with pytest.raises(HeadsError, match=r"heads for sam2\.1_hiera_tiny, got heads for nano-m"):
        patch_sam2(predictor, random_heads(checkpoint="nano-m"))
    assert type(predictor) is SAM2ImagePredictor
    assert vars(predictor) == before
    patch_sam2(predictor, random_heads(checkpoint="sam2.1"))
    with pytest.raises(HeadsError, match="got heads for sam2"):
        predictor.set_heads(random_heads(checkpoint="sam2"))
    assert predictor.heads.checkpoint == "sam2.1"


def test_only_sam2_objects_are_patched() -> None:
    with pytest.raises(UsamError, match="a SAM2ImagePredictor"):
        patch_sam2(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "a point, a box or a mask_input"),
        ({"point_coords": [[1, 1]]}, "no labels"),
        ({"point_labels": [1]}, "no points"),
        ({"point_coords": [[1, 1]], "point_labels": [1, 1]}, "a label for each point"),
        ({"point_coords": [[130, 1]], "point_labels": [1]}, "0 <= x < 130"),
        ({"point_coords": [[1, -1]], "point_labels": [1]}, "0 <= y < 90"),
        ({"point_coords": [[np.nan, 1]], "point_labels": [1]}, "finite"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)}, "at least one point"),
        ({"point_coords": np.zeros((0, 1, 2)), "point_labels": np.zeros((0, 1))}, "at least one point"),
        ({"point_coords": [[1, 1]], "point_labels": [7]}, "labels 0"),
        ({"point_coords": [[1, 1]], "point_labels": [-1]}, "labels 0"),
        ({"box": [10, 10, 5, 20]}, "x0 < x1"),
        ({"box": [10, 10, 500, 20]}, "130 x 90"),
        ({"box": np.zeros((0, 4))}, "at least one box"),
        ({"mask_input": np.zeros((1, 90, 130))}, "mask_input of shape"),
        ({"mask_input": np.full((1, 32, 32), np.nan)}, "finite mask_input"),
        ({"box": _BOXES, "point_coords": [[1, 1]], "point_labels": [1]}, "1 points, 3 boxes"),
        ({"box": _BOXES, "mask_input": _LOW_RES[0]}, "3 boxes, 1 mask inputs"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(pair: tuple[Any, Any], prompt: Any, message: str) -> None:
    for call in (pair[1].predict, pair[1].predict_tokens, pair[1].predict_scores):
        with pytest.raises(PromptError, match=message):
            call(**prompt)


def test_without_an_image_nothing_is_predicted(heads: HeadSet) -> None:
    ours = patch_sam2(SAM2ImagePredictor(model()), heads)
    for call in (ours.predict, ours.predict_tokens, ours.predict_scores):
        with pytest.raises(ImageError, match="set_image"):
            call(**PROMPTS["point"])
    with pytest.raises(ImageError, match="set_image"):
        ours.embedding()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        "picture.png",
    ],
    ids=["gray", "alpha", "empty", "float", "name"],
)
def test_images_that_would_be_misread_are_refused(image: Any) -> None:
    ours = patch_sam2(SAM2ImagePredictor(model()))
    with pytest.raises(ImageError, match="an RGB image"):
        ours.set_image(image)
    with pytest.raises(ImageError, match="an RGB image"):
        ours.set_image_batch([image])


def test_an_image_of_one_pixel_has_masks_and_scores(heads: HeadSet) -> None:
    ours = patch_sam2(SAM2ImagePredictor(model()), heads)
    ours.set_image(picture()[:1, :1])
    masks, _, _, scores = ours.predict([[0, 0]], [1])
    assert masks.shape == (3, 1, 1)
    assert scores["task_gap"].shape == (3,)


def test_scores_stay_in_their_ranges(pair: tuple[Any, Any]) -> None:
    scores = pair[1].predict(**PROMPTS["several points"])[3]
    for name, values in scores.items():
        low, high = (-0.5, 0.5) if name.endswith("_gap") else (0, 1)
        assert (low <= values).all()
        assert (values <= high).all()


def test_the_chunk_can_be_measured(pair: tuple[Any, Any]) -> None:
    ours = pair[1]
    chunk = ours.calibrate_chunk(4)
    assert chunk in (1, 2, 4)
    assert ours.chunk == chunk
    ours.reset_predictor()
    with pytest.raises(ImageError, match="set_image"):
        ours.calibrate_chunk()
