"""What objects cost that are clicked, and those that are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.project_learning import Project
from bench.tool_effort import click_seconds, clicked_iou, clicks_that_do, seconds_with
from usam.prompts import Prompt

THREE = np.array([[0.8, 0.9, 0.9], [0.2, 0.6, 0.7], [0.1, 0.2, 0.3]])


def test_clicks_are_paid_until_a_mask_is_good_and_the_drawing_where_none_is() -> None:
    assert click_seconds(THREE, 0.5).tolist() == pytest.approx([4.0, 8.0, 12.0 + 79.2])
    assert click_seconds(THREE, 0.75).tolist() == pytest.approx([4.0, 12.0 + 79.2, 12.0 + 79.2])
    clicked = {"a": THREE, "b": np.array([[np.nan] * 3, [0.4, 0.9, 0.9]])}
    assert clicks_that_do(clicked, 0.75) == (0.25, 0.5)


def test_each_click_goes_where_the_mask_is_most_wrong() -> None:
    truth = np.zeros((20, 20), bool)
    truth[2:11, 2:11] = True
    asked: list[Prompt] = []

    def answer(prompt: Prompt) -> npt.NDArray[np.bool_]:
        asked.append(prompt)
        mask = truth.copy()
        if len(asked) == 1:
            mask[2:11, 11:18] = True
        return mask

    assert clicked_iou(truth, answer, 3).tolist() == pytest.approx([81 / 144, 1, 1])
    assert [prompt.labels.tolist() for prompt in asked] == [[1], [1, 0]]
    assert asked[0].points.tolist() == [[6, 6]]
    assert 11 <= asked[1].points[1, 0] < 18


def test_what_is_shown_well_costs_a_look_and_all_else_its_deletion_or_its_clicks() -> None:
    overlap = np.array([[0.9, 0, 0], [0, 0.6, 0], [0, 0, 0.1]])
    partner = np.array([0, 1, -1])
    image: Any = SimpleNamespace(
        overlap=overlap, categories=["cat", "dog", "cat"], partner=lambda rows, wanted: partner[rows]
    )
    project, rows, missing = Project("pets", "pets", None, 1, False), np.arange(3), np.array([100.0, 10.0, 1.0])
    names = ["cat", "cat", None]
    look, delete, relabel = 3 * 1.6, 2.4, 2.4
    assert seconds_with(project, image, rows, names, 0.5, missing) == pytest.approx(look + relabel + delete + 1)
    assert seconds_with(project, image, rows, names, 0.75, missing) == pytest.approx(look + 2 * delete + 11)
    assert seconds_with(project, image, rows[:0], [], 0.5, missing) == 111
