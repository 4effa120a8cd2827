"""Further answers to a click: parts that hold it, unions with what touches, and nothing else."""

from __future__ import annotations

import numpy as np

from usam.research.nano.answers import further_target, other_answers
from usam.research.nano.samples import PromptCounts, prompt_groups
from usam.research.nano.scenes import Scene

M = 32
IMAGE = np.zeros((4 * M, 4 * M, 3), np.uint8)


def block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((M, M), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


LEFT, RIGHT, AFAR = block(4, 16, 4, 12), block(4, 16, 12, 20), block(24, 30, 24, 30)
PART = block(4, 8, 4, 12)
IN_PART, BELOW_PART = np.array([30.0, 22.0]), np.array([30.0, 50.0])


def test_a_union_with_what_touches_and_with_nothing_afar() -> None:
    scene = Scene(IMAGE, np.stack([LEFT, RIGHT, AFAR]))
    (union,) = other_answers(scene, 0, IN_PART)
    np.testing.assert_array_equal(union, np.maximum(LEFT, RIGHT))
    assert other_answers(scene, 2, np.array([104.0, 104.0])) == []


def test_corners_that_meet_are_no_contact() -> None:
    scene = Scene(IMAGE, np.stack([LEFT, block(16, 24, 12, 20)]))
    assert other_answers(scene, 0, IN_PART) == []


def test_a_part_is_meant_by_a_click_in_it_alone() -> None:
    scene = Scene(IMAGE, np.stack([LEFT, PART]))
    (part,) = other_answers(scene, 0, IN_PART)
    np.testing.assert_array_equal(part, PART)
    assert other_answers(scene, 0, BELOW_PART) == []
    (whole,) = other_answers(scene, 1, IN_PART)
    np.testing.assert_array_equal(whole, LEFT)


def test_the_same_object_drawn_twice_is_no_other_answer() -> None:
    assert other_answers(Scene(IMAGE, np.stack([LEFT, LEFT])), 0, IN_PART) == []


def test_what_is_not_known_stays_so() -> None:
    ignored = block(16, 20, 0, M)
    scene = Scene(IMAGE, np.stack([LEFT, RIGHT]), ignored)
    target = further_target(scene, 0, IN_PART, np.random.default_rng(0))
    assert (target[16:20] == -1).all()
    assert (target[4:16, 4:20] == 1).all()
    alone = further_target(Scene(IMAGE, LEFT[None]), 0, IN_PART, np.random.default_rng(0))
    assert (alone == -1).all()


def test_a_share_of_the_clicks_and_no_other_prompt() -> None:
    scenes = [Scene(IMAGE, np.stack([LEFT, RIGHT]))] * 40

    def further(joined: float) -> dict[str, np.ndarray | None]:
        groups = prompt_groups(scenes, PromptCounts(5, 2, 2), np.random.default_rng(0), joined)
        return {group.kind: group.further for group in groups}

    assert set(further(0.0).values()) == {None}
    some = further(0.3)
    assert some["box"] is None
    assert some["points"] is None
    assert some["click"] is not None
    accepted = (some["click"] > 0.5).any((1, 2)).mean()
    assert 0.2 < accepted < 0.4
