"""What callers of the front door hand in: lists and views count as arrays, anything else is a sentence."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import usam
from usam.arrays import number, numbers
from usam.errors import HeadsError, ImageError, PromptError, PseudoLabelError, TrainingError, UsamError
from usam.predictor.encoder import check_rgb
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee
from usam.training.settings import TrainSettings

NAN = float("nan")
HOSTILE: list[Any] = ["ab", ["a", "b"], [[1], [1, 2]], {1}, {"a": 1}, 1j, np.zeros(2, "M8[s]"), object(), [object()]]


@pytest.mark.parametrize("values", HOSTILE)
def test_what_is_no_numbers_is_said(values: Any) -> None:
    with pytest.raises(PromptError, match=r"expected points as numbers, got .*; pass an array of floats"):
        numbers(values, "points", error=PromptError)


@pytest.mark.parametrize("kind", ["?", "u1", "i8", "f2", "f4", "f8"])
def test_types_of_numbers_stay(kind: str) -> None:
    assert numbers(np.ones((2, 2), kind), "points", 2).dtype == np.dtype(kind)


def test_none_among_numbers_is_nan_and_another_shape_is_said() -> None:
    assert np.isnan(numbers([None, 1], "IoUs", 1)).tolist() == [True, False]
    with pytest.raises(UsamError, match=r"expected IoUs, got shape \(\); pass 1 dimension"):
        numbers(None, "IoUs", 1)


@pytest.mark.parametrize("value", [NAN, None, "0.5", 2, -1, [0.5]])
def test_one_number_within_limits(value: Any) -> None:
    with pytest.raises(UsamError, match="a share from 0 to 1"):
        number(value, "a share", 0, 1)


# rank_pool


def rank(ids: Any = ("a", "b", "c"), worth: Any = (0.1, 0.5, 0.3), features: Any = None, **rest: Any) -> list[int]:
    return usam.rank_pool(ids, worth, features, **{"audit_share": 0.0, **rest}).order.tolist()


def test_a_pool_is_ranked_from_lists_too() -> None:
    assert rank() == rank(features=[[1, 0], [0, 1], [1, 1]]) == rank(ids=["\ud800", "b", "c"]) == [1, 2, 0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"ids": "abcd"}, "3 names, one for each acquisition, got 4 names"),
        ({"ids": ["a"]}, "got 1 names"),
        ({"ids": {"a", "b", "c"}}, "a sequence"),
        ({"ids": (name for name in "abc")}, "got generator"),
        ({"ids": None}, "got NoneType"),
        ({"worth": [[1], [2], [3]]}, "acquisition"),
        ({"worth": ["x", "y", "z"]}, "acquisition"),
        ({"features": [["x"]] * 3}, "features"),
        ({"features": np.eye(3), "similarity": NAN}, "similarity"),
        ({"features": np.eye(3), "spread": "much"}, "spread"),
        ({"audit_share": NAN}, "audit share"),
        ({"audit_share": None}, "audit share"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(given: dict[str, Any], reason: str) -> None:
    """A name too many was left out without a word."""
    with pytest.raises(UsamError, match=reason):
        rank(**given)


# calibrate


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("true_iou", [85.0] * 40),
        ("true_iou", [-0.1] * 40),
        ("true_iou", ["a"] * 40),
        ("predicted_iou", np.ones((40, 2))),
        ("predicted_iou", None),
        ("task_gap", 0.5),
        ("names", set(range(40))),
        ("images", frozenset(range(40))),
        ("images", None),
        ("audited", 3),
    ],
)
def test_columns_that_are_none_are_refused(column: str, values: Any) -> None:
    """IoUs in percent passed every promise; a set paired names with the IoUs of others."""
    columns: dict[str, Any] = {"names": range(40), "images": range(40), "predicted_iou": [0.9] * 40}
    with pytest.raises(PseudoLabelError):
        usam.calibrate(Candidates(**{**columns, column: values}), Candidates(**columns), RiskGuarantee())


def test_an_iterator_of_images_counts_each_time_it_is_asked() -> None:
    masks = Candidates(iter("ab"), iter("ab"), [0.5, 0.9], audited=iter("abc"))  # type: ignore[arg-type]
    assert masks.image_count == 3
    assert masks.digest() == Candidates("ab", "ab", np.array([0.5, 0.9]), audited="abc").digest()


def test_numbers_of_numpy_are_numbers() -> None:
    promise: Any = {"iou": np.float32(0.5), "per_image": np.int64(2), "task_gap": np.float16(0.1)}
    assert RiskGuarantee(**promise).per_image == 2
    assert number(np.float32(0.5), "a share", 0, 1) == 0.5


@pytest.mark.parametrize("promise", [{"iou": "a"}, {"risk": None}, {"task_gap": "a"}, {"per_image": 1.5}])
def test_a_promise_of_no_number_is_refused(promise: dict[str, Any]) -> None:
    with pytest.raises(PseudoLabelError):
        RiskGuarantee(**promise)


# fit_heads, HeadSet


@pytest.mark.parametrize(
    "given",
    [
        {"iou_token": "a"},
        {"mask_tokens": [[1], [2, 3]]},
        {"iou_token": np.zeros((8, 0)), "mask_tokens": np.zeros((8, 4, 0))},
        {"targets": {"iou_a": [["x"] * 3] * 8}},
        {"targets": None},
        {"groups": [None] * 8},
        {"groups": [object()] * 8},
        {"weights": ["a"] * 8},
        {"alignment": "other"},
    ],
)
def test_rows_that_teach_nothing_are_refused(given: dict[str, Any]) -> None:
    rows: dict[str, Any] = {
        "iou_token": np.zeros((8, 2)),
        "mask_tokens": np.zeros((8, 4, 2)),
        "targets": {"iou_a": np.full((8, 3), 0.5)},
        "groups": range(8),
    }
    with pytest.raises(TrainingError):
        usam.fit_heads(**{**rows, **given}, settings=TrainSettings(epochs=1, members=1))


def test_heads_of_texts_and_scores_of_texts_are_refused() -> None:
    with pytest.raises(HeadsError, match="layer 0 of iou_a as numbers"):
        usam.HeadSet({"iou_a": [("a", "b")]}, alignment="aligned")
    layers = [(np.zeros((2, 4)), np.zeros(2)), (np.zeros((1, 2)), np.zeros(1))]
    heads = usam.HeadSet({"iou_a": layers}, alignment="aligned")
    for tokens in ("a", None, [1.0, 2.0]):
        with pytest.raises(HeadsError):
            heads.score(tokens, tokens)  # type: ignore[arg-type]


# pictures, prompts, checkpoints


@pytest.mark.parametrize("source", [None, 3, [1], np.zeros((2, 2, 3), np.uint8), object()])
def test_what_is_no_file_is_said(source: Any) -> None:
    with pytest.raises(ImageError, match=f"got {type(source).__name__}; what is an array already"):
        usam.read_image(source)


def test_a_closed_stream_is_said() -> None:
    stream = io.BytesIO(b"x")
    stream.close()
    with pytest.raises(ImageError, match="open it again"):
        usam.read_image(stream)


@pytest.mark.parametrize("view", [lambda a: a[..., ::-1], lambda a: a[::-1, ::-1], np.asfortranarray])
def test_a_view_of_a_picture_is_a_picture(view: Callable[[Any], Any]) -> None:
    """OpenCV's colours turned round, `image[..., ::-1]`, were refused by torch: it knows no backward steps."""
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    given = check_rgb(view(picture))
    assert given.flags.c_contiguous
    assert (given == view(picture)).all()


@pytest.mark.parametrize("points", [None, 3, (p for p in [[1, 2]]), {1}, "ab", [[1, 2], [3]]])
def test_points_that_are_none_are_said(points: Any) -> None:
    with pytest.raises(PromptError):
        usam.Prompt(points, [1])
    with pytest.raises(PromptError):
        usam.Prompt([[1, 2]], [1]).with_point(points, 1)


@pytest.mark.parametrize("name", [None, 3, ["nano-s"], b"nano-s"])
def test_a_checkpoint_of_no_name_is_said(name: Any) -> None:
    with pytest.raises(UsamError, match="expected one of"):
        usam.load(name)


@pytest.mark.parametrize("predictor", [None, "nano-s"])
def test_masks_of_what_is_no_predictor_are_refused(predictor: Any) -> None:
    with pytest.raises(PromptError, match=r"usam\.patch"):
        usam.propose_masks(predictor, [[1, 2]])
