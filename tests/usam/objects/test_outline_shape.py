"""A straight edge on one side of an outline tells a half, however it was cut, and a lopsided ellipse does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from usam.objects.outline_shape import SHAPE_FIGURES, measure_shape, straight_edges

SIDE = 72
KNOWN = np.ones((SIDE, SIDE), bool)


def ellipse() -> np.ndarray:  # type: ignore[type-arg]
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(drawn, (36, 36), (15, 12), 30, 0, 360, 1, -1)
    return drawn > 0


def cut(drawn: np.ndarray, angle: float) -> np.ndarray:  # type: ignore[type-arg]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.asarray(drawn & ((columns - 36) * np.cos(angle) + (rows - 36) * np.sin(angle) <= 0))


def told(drawn: np.ndarray, known: np.ndarray = KNOWN) -> dict[str, float]:  # type: ignore[type-arg]
    return dict(zip(SHAPE_FIGURES, measure_shape(drawn, straight_edges(drawn, known)), strict=True))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 20, 47, 133, 215, 301])
def test_a_half_has_a_straight_edge_on_one_side(degrees: int) -> None:
    whole, half = told(ellipse()), told(cut(ellipse(), np.radians(degrees)))
    assert whole["straight"] < 0.6 < 0.75 < half["straight"]
    assert half["straight_beyond_opposite"] > 0.3 > whole["straight_beyond_opposite"]
    assert half["straight_place"] < 0.45, "what is left lies near the cut"
    assert half["ellipse"] < whole["ellipse"] - 0.03


def test_the_pictures_own_border_is_no_cut() -> None:
    half = cut(ellipse(), 0.0)
    known = np.zeros((SIDE, SIDE), bool)
    known[:, : half.any(0).nonzero()[0].max() + 1] = True
    assert told(half, known)["straight"] < 0.7 < 0.9 < told(half)["straight"]


@pytest.mark.parametrize("region", [np.s_[0:1, 0:1], np.s_[:, :], np.s_[30:31, 3:60], np.s_[70:, 10:]], ids=str)
def test_odd_shapes_have_figures(region: tuple[slice, slice]) -> None:
    drawn = np.zeros((SIDE, SIDE), bool)
    drawn[region] = True
    assert np.isfinite(measure_shape(drawn, straight_edges(drawn, KNOWN))).all()
    assert np.isfinite(measure_shape(drawn, straight_edges(drawn, drawn))).all()
