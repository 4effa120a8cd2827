"""The scripted annotator takes the cheapest way that is good enough, and pays for what did not do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from usam.errors import SimulationError
from usam.research.simulation.annotator import WAYS, Annotator
from usam.research.simulation.cost import CostModel
from usam.research.simulation.labelled_set import LabelledSet

COST = CostModel(look_s=1.0, click_s=2.0, polygon_s=30.0)


@pytest.fixture
def four(labelled: LabelledSet) -> LabelledSet:
    """The first mask right; the second of three right; right after four clicks; never right."""
    iou = np.full((len(labelled), 3), 0.3, np.float32)
    iou[0] = [0.85, 0.95, 0.2]
    iou[1] = [0.5, 0.9, 0.2]
    clicked = np.full((len(labelled), 3), 0.4, np.float32)
    clicked[2] = [0.5, 0.81, 0.7]
    return replace(labelled, iou=iou, clicks=(2, 5, 8), clicked=clicked)


def test_each_way_and_its_price(four: LabelledSet) -> None:
    found = Annotator(0.8, COST).answer(four, np.arange(4), np.zeros(4, np.int64))
    assert [WAYS[way] for way in found.way] == ["accepted", "chosen", "clicked", "drawn"]
    assert found.iou == pytest.approx([0.85, 0.9, 0.81, 1.0])
    assert found.clicks.tolist() == [0, 1, 4, 7 + 15]
    assert found.seconds == pytest.approx([1.0, 3.0, 1 + 4 * 2, 1 + 7 * 2 + 30])


def test_what_is_shown_matters(four: LabelledSet) -> None:
    found = Annotator(0.8, COST).answer(four, np.array([1, 1]), np.array([1, 2]))
    assert [WAYS[way] for way in found.way] == ["accepted", "chosen"]


def test_a_stricter_annotator_costs_more(labelled: LabelledSet) -> None:
    rows, shown = np.arange(len(labelled)), np.zeros(len(labelled), np.int64)
    spent = [Annotator(threshold).answer(labelled, rows, shown).seconds.sum() for threshold in (0.5, 0.7, 0.9)]
    assert spent[0] < spent[1] < spent[2]


def test_prices_and_thresholds_out_of_range_are_refused() -> None:
    with pytest.raises(SimulationError, match="seconds above 0"):
        CostModel(click_s=0)
    with pytest.raises(SimulationError, match="threshold"):
        Annotator(1.2)


def test_real_clicks_take_the_place_of_the_dense_prompt(labelled: LabelledSet) -> None:
    clicked = np.tile(np.array([0.2, 0.5, 0.9], np.float32), (len(labelled), 1))
    found = labelled.with_clicks(clicked)
    assert found.clicks == (2, 3)
    assert found.clicked[0] == pytest.approx([0.5, 0.9])
    assert found.source != labelled.source
    with pytest.raises(SimulationError, match="click every object"):
        labelled.with_clicks(clicked[1:])
