"""Domains: each counts alike, intervals are over images, gains are of the same objects."""

from __future__ import annotations

import numpy as np
import pytest

from usam.research.nano.domains import FIGURES, DomainValues, domain_intervals, gain, mean_intervals


def domain(name: str, level: float, images: int, objects: int = 5, spread: float = 0.1) -> DomainValues:
    rng = np.random.default_rng(images)
    groups = np.repeat([f"{name}/{index}" for index in range(images)], objects)
    by_image = np.repeat(rng.normal(0, spread, images), objects)
    values = level + by_image[:, None] + np.zeros((images * objects, len(FIGURES)))
    return DomainValues(name, groups, values)


def test_each_domain_counts_alike() -> None:
    few, many = domain("few", 0.2, 4, spread=0), domain("many", 0.8, 400, spread=0)
    assert [interval.value for interval in mean_intervals([few, many])] == pytest.approx([0.5] * len(FIGURES))


def test_more_images_make_the_interval_narrower_and_more_objects_do_not() -> None:
    def width(images: int, objects: int) -> float:
        interval = domain_intervals(domain("d", 0.5, images, objects))[0]
        assert interval.low <= interval.value <= interval.high
        return interval.high - interval.low

    assert width(200, 5) < width(20, 5) / 2
    assert width(20, 50) == pytest.approx(width(20, 5), rel=0.01)


def test_a_gain_is_of_the_same_objects() -> None:
    old, new = domain("d", 0.5, 30), domain("d", 0.6, 30)
    (interval, *_) = mean_intervals(gain([new], [old]))
    assert interval.value == pytest.approx(0.1)
    assert interval.high - interval.low < 1e-6, "the same images are as hard for both"
    with pytest.raises(ValueError, match="same objects of d"):
        gain([domain("d", 0.6, 29)], [old])
