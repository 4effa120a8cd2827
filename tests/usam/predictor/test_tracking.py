"""An object is followed from frame to frame, lost with a word, and never taken for another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import usam
from tests.usam.test_videos import moving_square
from usam.errors import ImageError, PromptError
from usam.predictor.tracking import LOST_AFTER, MaskTracker, widened_box
from usam.prompts import Prompt


def click(x: float, y: float) -> Prompt:
    return Prompt(np.array([[x, y]], np.float32), np.ones(1, np.int32))


@pytest.fixture(scope="module")
def predictor() -> Any:
    return usam.load("nano-s")


def square(number: int) -> np.ndarray:
    mask = np.zeros((96, 96), bool)
    mask[30:62, 10 + 2 * number : 42 + 2 * number] = True
    return mask


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_square_is_followed_with_its_scores(predictor: Any) -> None:
    tracker = MaskTracker(predictor)
    seen = [tracker.begin(moving_square(0), click(26, 46))]
    seen += [tracker.follow(moving_square(number)) for number in range(1, 15)]
    assert all(frame.is_found for frame in seen)
    assert np.mean([overlap(frame.mask, square(number)) for number, frame in enumerate(seen)]) > 0.8
    assert all(0 <= frame.iou <= 1 for frame in seen)
    assert set(seen[-1].gaps) == {"task_gap", "prompt_gap", "model_gap"}


def test_the_mask_before_is_given_with_its_box_unless_it_is_not_wanted() -> None:
    given = []

    class Told(Blank):
        def predict(self, points: Any = None, labels: Any = None, box: Any = None, mask_input: Any = None) -> Any:
            given.append((None if box is None else box.tolist(), mask_input is not None))
            masks, *others = super().predict(points, labels, box, mask_input)
            return np.stack([masks[0]] * 3), *others

    for options in ({}, {"margin": 0.25, "with_mask": False}):
        tracker = MaskTracker(Told(), **options)  # type: ignore[arg-type]
        tracker.begin(moving_square(0), click(26, 46))
        tracker.follow(moving_square(1))
    assert [mask for _, mask in given] == [False, True, False, False]
    assert given[3][0] == [2, 22, 50, 70]


class Blank:
    """A predictor that finds what it is told to find."""

    heads, checkpoint_name = None, "nano-s"

    def __init__(self) -> None:
        self.mask, self.boxes = square(0), []  # type: ignore[var-annotated]

    def set_image(self, image: Any) -> None: ...

    def predict(self, points: Any = None, labels: Any = None, box: Any = None, mask_input: Any = None) -> Any:
        self.boxes.append(box)
        masks = np.stack([self.mask, np.ones((96, 96), bool), np.zeros((96, 96), bool)])
        return masks, np.array([0.6, 0.9, 0.1], np.float32), np.zeros((3, 16, 16), np.float32), {}


def answers(model: Any, mask: np.ndarray, iou: float) -> None:
    """Let a model give one mask whatever it is asked."""
    model.predict = lambda *a, **k: (mask[None], np.array([iou]), np.zeros((1, 16, 16)), {})


def following(model: Any) -> MaskTracker:
    """Begun on the square."""
    answers(model, square(0), 0.6)
    tracker = MaskTracker(model)
    tracker.begin(moving_square(0), click(26, 46))
    return tracker


def test_an_object_that_is_gone_is_not_another_one_and_comes_back_where_it_was() -> None:
    model: Any = Blank()
    tracker = MaskTracker(model)
    model.mask = square(0)
    begun = tracker.begin(moving_square(0), click(26, 46))
    assert begun.mask.all(), "the best rated answer to a click"
    tracker = following(model)
    far = np.zeros((96, 96), bool)
    far[80:, 80:] = True
    answers(model, far, 0.95)
    lost = tracker.follow(moving_square(1))
    assert (lost.is_found, lost.iou, lost.mask.any()) == (False, 0.0, False)
    answers(model, square(1), 0.7)
    assert tracker.follow(moving_square(1)).is_found
    answers(model, far, 0.95)
    for _ in range(LOST_AFTER):
        tracker.follow(moving_square(1))
    model.predict = lambda *a, **k: pytest.fail("it is not looked for any more")
    assert not tracker.follow(moving_square(1)).is_found


def test_of_three_answers_the_one_like_before_is_taken() -> None:
    model: Any = Blank()
    three = model.predict
    tracker = following(model)
    model.predict = three
    model.mask = square(1)
    found = tracker.follow(moving_square(1))
    assert overlap(found.mask, square(1)) == 1
    assert found.iou == pytest.approx(0.6), "its own rating, not the rank"
    assert model.boxes[-1].tolist() == widened_box(square(0)).tolist()


def test_what_cannot_be_followed_is_said(predictor: Any) -> None:
    tracker = MaskTracker(predictor)
    with pytest.raises(ImageError, match="call begin first"):
        tracker.follow(moving_square(0))
    with pytest.raises(PromptError):
        tracker.begin(moving_square(0), click(500, 10))
    tracker.begin(moving_square(0), click(26, 46))
    with pytest.raises(ImageError, match="frames of 96 x 96 pixels, got one of 64 x 64"):
        tracker.follow(moving_square(0, 64)[:64, :64])


def test_a_click_corrects_the_mask_and_finds_a_lost_object_again(predictor: Any) -> None:
    tracker = MaskTracker(predictor)
    with pytest.raises(ImageError, match="call begin first"):
        tracker.correct(click(26, 46))
    tracker.begin(moving_square(0), click(26, 46))
    tracker.follow(moving_square(1))
    more = tracker.correct(click(30, 50))
    assert overlap(more.mask, square(1)) > 0.8
    less = tracker.correct(Prompt(np.array([[80, 80]], np.float32), np.zeros(1, np.int32)))
    assert not less.mask[80, 80]
    assert overlap(tracker.follow(moving_square(2)).mask, square(2)) > 0.8
    with pytest.raises(PromptError, match="begin again with the box"):
        tracker.correct(Prompt([[30, 50]], [1], [10, 30, 42, 62]))


def test_of_three_answers_to_a_correction_one_that_obeys_is_taken() -> None:
    model: Any = Blank()
    three = model.predict
    tracker = following(model)
    model.predict = three
    corrected = tracker.correct(Prompt(np.array([[80, 80]], np.float32), np.zeros(1, np.int32)))
    assert overlap(corrected.mask, square(0)) == 1, "not the better rated one of the whole frame"
    far = np.zeros((96, 96), bool)
    far[80:, 80:] = True
    answers(model, far, 0.95)
    for _ in range(LOST_AFTER):
        assert not tracker.follow(moving_square(1)).is_found
    with pytest.raises(PromptError, match="it was lost: click it"):
        tracker.correct(Prompt(np.array([[80, 80]], np.float32), np.zeros(1, np.int32)))
    assert tracker.has_given_up
    assert tracker.correct(click(90, 90)).is_found
    assert not tracker.has_given_up
    assert tracker.follow(moving_square(1)).is_found
