"""Polygons that enclose exactly the pixels they came from, and rings that come from anywhere."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import points_in_poly

from usam.errors import MaskError
from usam.masks import count_holes, iou, mask_to_polygons, polygon_to_mask, polygons, trace_regions

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16))


def disc(radius: float, image_hw: tuple[int, int] = (120, 160)) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[: image_hw[0], : image_hw[1]]
    return np.hypot(x - image_hw[1] // 2, y - image_hw[0] // 2) < radius


def signed_area(ring: npt.NDArray[np.float32]) -> float:
    x, y = ring.astype(float).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


@given(MASKS)
@example(np.ones((1, 1), bool))
@example(np.eye(5, dtype=bool))
@example(~np.eye(5, dtype=bool))
@settings(max_examples=300, deadline=None)
def test_unsimplified_rings_give_the_mask_back(mask: npt.NDArray[np.bool_]) -> None:
    rings = mask_to_polygons(mask, tolerance=0)
    assert all(ring.shape[0] >= 4 and ring.shape[1] == 2 and ring.dtype == np.float32 for ring in rings)
    assert (polygon_to_mask(rings, mask.shape) == mask).all()
    assert sum(abs(signed_area(ring)) for ring in rings) == mask.sum()


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_regions_and_holes_are_counted_as_connected_components(mask: npt.NDArray[np.bool_]) -> None:
    regions = trace_regions(mask, 0)
    assert len(regions) == ndimage.label(mask, np.ones((3, 3)))[1]
    assert count_holes(mask) == ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
    for region in regions:
        assert all(signed_area(hole) * signed_area(region.outer) < 0 for hole in region.holes)
    filled = polygon_to_mask(mask_to_polygons(mask, 0, holes="fill"), mask.shape)
    assert (filled == ndimage.binary_fill_holes(mask)).all()


def test_a_simplified_disc_has_few_vertices_and_hardly_changes() -> None:
    mask = disc(50)
    (ring,) = mask_to_polygons(mask)
    assert len(ring) < 40
    assert iou(polygon_to_mask(ring, mask.shape), mask) > 0.98
    (exact,) = mask_to_polygons(mask, 0)
    assert len(exact) > 3 * len(ring)


def test_a_slanted_edge_is_one_line() -> None:
    y, x = np.mgrid[:300, :400] - np.array([150, 200])[:, None, None]
    mask = (abs(0.8 * x + 0.6 * y) < 100) & (abs(0.8 * y - 0.6 * x) < 60)
    (ring,) = mask_to_polygons(mask)
    assert len(ring) == 4
    assert iou(polygon_to_mask(ring, mask.shape), mask) > 0.98


def test_a_hole_stays_open_through_simplification() -> None:
    mask = disc(50) & ~disc(20)
    (ring,) = mask_to_polygons(mask)
    back = polygon_to_mask(ring, mask.shape)
    assert not back[60, 80]
    assert iou(back, mask) > 0.97
    assert count_holes(mask) == 1
    (filled,) = mask_to_polygons(mask, holes="fill")
    assert polygon_to_mask(filled, mask.shape)[60, 80]


def test_specks_and_pinholes_can_be_left_out_and_the_largest_part_comes_first() -> None:
    mask = np.zeros((60, 60), bool)
    mask[2:5, 2:5] = mask[10:50, 10:50] = True
    mask[20, 20] = False
    mask[30:40, 30:40] = False
    assert [len(region.holes) for region in trace_regions(mask)] == [2, 0]
    assert [len(region.holes) for region in trace_regions(mask, min_area=9)] == [1, 0]
    assert [len(region.holes) for region in trace_regions(mask, min_area=10)] == [1]
    assert count_holes(mask, min_area=2) == 1


def test_a_part_thinner_than_the_tolerance_keeps_its_corners() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5, 3:15] = True
    (ring,) = mask_to_polygons(mask, tolerance=3)
    assert (polygon_to_mask(ring, mask.shape) == mask).all()


def test_an_empty_mask_has_no_polygon() -> None:
    assert mask_to_polygons(np.zeros((5, 5), bool)) == []
    assert not polygon_to_mask([], (5, 5)).any()


def test_a_noisy_mask_is_bridged_in_reasonable_time() -> None:
    mask = disc(110, (240, 320)) ^ (np.random.default_rng(0).random((240, 320)) < 0.02)
    rings = mask_to_polygons(mask, tolerance=0)
    assert count_holes(mask) > 300
    assert (polygon_to_mask(rings, mask.shape) == mask).all()


@given(hnp.arrays(np.float64, (6, 2), elements={"min_value": -10, "max_value": 30, "allow_nan": False}))
@settings(max_examples=100, deadline=None)
def test_any_ring_is_filled_by_the_even_odd_rule(ring: npt.NDArray[np.float64]) -> None:
    y, x = np.mgrid[:20, :20] + 0.5
    inside, clear = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if abs(ay - by) < 1e-9:
            clear &= abs(y - ay) > 1e-6
            continue
        crossing = ax + (y - ay) / (by - ay) * (bx - ax)
        inside ^= ((ay <= y) != (by <= y)) & (crossing <= x)
        clear &= (abs(crossing - x) > 1e-6) & (abs(y - ay) > 1e-6) & (abs(y - by) > 1e-6)
    assert (polygon_to_mask(ring, (20, 20)) == inside)[clear].all()


def test_convex_rings_agree_with_another_implementation() -> None:
    ring = np.array([[3.2, 1.1], [15.7, 4.3], [12.1, 17.9], [2.4, 11.6]])
    y, x = np.mgrid[:20, :20]
    inside = points_in_poly(np.stack([x.ravel(), y.ravel()], 1) + 0.5, ring).reshape(20, 20)
    assert (polygon_to_mask(ring, (20, 20)) == inside).all()


def test_several_rings_are_united() -> None:
    square = np.array([[1, 1], [4, 1], [4, 4], [1, 4]])
    assert polygon_to_mask([square, square + 1], (6, 6)).sum() == 9 + 9 - 4
    assert polygon_to_mask(square.tolist(), (6, 6)).sum() == 9
    assert polygon_to_mask(square - 2, (6, 6)).sum() == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: polygon_to_mask([[0, 0], [1, 1]], (4, 4)), "at least three vertices"),
        (lambda: polygon_to_mask([[[0, 0], [1, 1], [2, 2]], [[0, 0]]], (4, 4)), "at least three vertices"),
        (lambda: polygon_to_mask([[0, 0], [1, np.nan], [3, 3]], (4, 4)), "NaN"),
        (lambda: polygon_to_mask([["a", "b"]] * 3, (4, 4)), "rings of vertices"),
        (lambda: polygon_to_mask(5, (4, 4)), "rings of vertices"),
        (lambda: polygon_to_mask([[0, 0], [1, 0], [1, 1]], (0, 4)), "size"),
        (lambda: mask_to_polygons(np.zeros((4, 4, 4), bool)), "shape"),
        (lambda: mask_to_polygons(np.zeros((4, 4), bool), tolerance=-1), "tolerance"),
        (lambda: mask_to_polygons(np.zeros((4, 4), bool), tolerance=float("nan")), "tolerance"),
    ],
)
def test_malformed_input_is_named(call, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        call()


def test_a_polygon_costs_what_its_own_box_costs() -> None:
    hw = (3000, 4000)
    tracemalloc.start()
    mask = polygon_to_mask([(10, 10), (60, 10), (60, 60)], hw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask[12:20, 30:58].all()
    assert peak < 2 * mask.size, "the mask itself, and little more"


def test_edges_to_and_fro_are_drawn_in_parts_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    to_and_fro = np.stack([np.linspace(0, 40, 60), np.tile([0, 30], 30)], 1)
    whole = polygon_to_mask(to_and_fro, (30, 40))
    monkeypatch.setattr(polygons, "CROSSINGS_AT_ONCE", 7)
    assert (polygon_to_mask(to_and_fro, (30, 40)) == whole).all()
    monkeypatch.setattr(polygons, "MOST_CROSSINGS", 1000)
    with pytest.raises(MaskError, match="draw it simpler"):
        polygon_to_mask(to_and_fro, (30, 40))
