"""Outlines that are moved or cut off are found among right ones, by what a project's own labels teach."""

from __future__ import annotations

import numpy as np
import pytest

from tests.usam.objects.outlined import IMAGES, PER_IMAGE, Knowing, halved, moved, picture
from usam.errors import TrainingError
from usam.objects.outline_doubt import STATES, as_frequent, expected_damage, judge_outlines, states_left_out
from usam.objects.outlines import measure_outline

MOVED, CUT = {2: (8, 0), 13: (-6, 6)}, (7, 20)
"""Labels that are wrong."""


@pytest.fixture(scope="module")
def project() -> tuple[np.ndarray, list[int]]:  # type: ignore[type-arg]
    figures = []
    for image in range(IMAGES):
        pixels, masks = picture(image)
        for k, mask in enumerate(masks, start=PER_IMAGE * image):
            drawn = moved(mask, *MOVED[k]) if k in MOVED else halved(mask) if k in CUT else mask
            figures.append(
                measure_outline(pixels, drawn, np.zeros((0, 30, 30)), np.zeros(0), Knowing(masks), k).figures
            )
    return np.array(figures), [row // PER_IMAGE for row in range(len(figures))]


def test_wrong_outlines_come_first_and_say_what_is_wrong(project: tuple[np.ndarray, list[int]]) -> None:  # type: ignore[type-arg]
    figures, images = project
    probability = judge_outlines(figures, images)
    first = np.argsort(-expected_damage(probability))[: len(MOVED) + len(CUT)]
    assert set(first.tolist()) == {*MOVED, *CUT}
    assert {STATES[probability[k, 1:].argmax() + 1] for k in MOVED} == {"moved"}
    assert {STATES[probability[k, 1:].argmax() + 1] for k in CUT} == {"cut"}
    np.testing.assert_allclose(probability.sum(1), 1)
    np.testing.assert_array_equal(judge_outlines(figures, images), probability)


def test_an_image_is_judged_by_what_others_teach(project: tuple[np.ndarray, list[int]]) -> None:  # type: ignore[type-arg]
    figures, images = project
    changed = figures.copy()
    changed[:PER_IMAGE, 1:] = figures[:PER_IMAGE, :1]
    before, after = states_left_out(figures, images), states_left_out(changed, images)
    np.testing.assert_array_equal(before[:PER_IMAGE], after[:PER_IMAGE])
    assert (before[PER_IMAGE:] != after[PER_IMAGE:]).any()


def test_what_was_not_measured_is_not_judged(project: tuple[np.ndarray, list[int]]) -> None:  # type: ignore[type-arg]
    figures, images = project
    part = figures.copy()
    part[0] = np.nan
    part[1, 1:] = np.nan
    found = judge_outlines(part, images)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all(), "a label without copies is judged, though it teaches nothing"
    assert np.isnan(judge_outlines(figures[:12], images[:12])).all(), "too few"
    with pytest.raises(TrainingError, match="figures"):
        judge_outlines(figures[:, :3], images)


def test_what_looks_moved_counts_less_where_no_label_is() -> None:
    none_moved = np.tile([0.95, 0.01, 0.04], (200, 1))
    none_moved[:20] = [0.3, 0.02, 0.68]
    odd = np.array([[0.6, 0.4, 0.0]])
    beside = {
        "none moved": as_frequent(np.concatenate([none_moved, odd])),
        "some moved": as_frequent(np.concatenate([none_moved[:, [0, 2, 1]], odd])),
    }
    np.testing.assert_allclose(beside["none moved"].sum(1), 1)
    assert beside["none moved"][-1, 1] < 0.2 < 0.4 < beside["some moved"][-1, 1]
    assert beside["none moved"][0, 2] > 0.68


def test_shares_that_cannot_be_told_apart_are_not_believed() -> None:
    flat = np.array([[0.90 - 0.002 * k, 0.05 - 0.002 * k, 0.05 + 0.004 * k] for k in range(11)] * 20)
    found = as_frequent(flat).mean(0)
    assert found[2] < 0.15
